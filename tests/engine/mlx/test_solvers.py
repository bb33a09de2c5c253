"""Levels, timesteps, inputs, clean latents and steps of scaled noise, against diffusers' schedulers."""

import diffusers
import numpy as np
import pytest
import torch

from locara_sidecar.engine.folder import config_check, schedulers
from locara_sidecar.engine.mlx_engine.schedules import noise_levels, solvers
from locara_sidecar.ipc.errors import EngineError
from support.parity import TOLERANCES, error
from support.schedulers import CHANGES, EULER, MULTISTEP, REFUSED, SDXL

# diffusers 0.42 converts its levels in a way that NumPy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CASES = [
    *((schedulers.EULER, changes) for changes in (CHANGES | EULER).values()),
    *((schedulers.ANCESTRAL, changes) for changes in CHANGES.values()),
    *((schedulers.MULTISTEP, changes) for changes in (CHANGES | MULTISTEP).values()),
]
IDS = [
    *(f"Euler: {name}" for name in CHANGES | EULER),
    *(f"ancestral: {name}" for name in CHANGES),
    *(f"multistep: {name}" for name in CHANGES | MULTISTEP),
]


def both(class_name, changes, name=None):
    """Return diffusers' scheduler and our configuration for a folder whose scheduler has that class."""
    described = {**SDXL, "_class_name": class_name, **changes}
    read = config_check.reduced("scheduler/scheduler_config.json", class_name, described, "mlx")
    chosen = schedulers.choose(read | {"_class_name": class_name}, class_name, name)
    return getattr(diffusers, chosen.class_name).from_config(described, **chosen.changes), chosen.config


@pytest.mark.parametrize(("class_name", "changes"), CASES, ids=IDS)
def test_levels_and_timesteps_are_diffusers(class_name, changes):
    theirs, config = both(class_name, changes)
    for steps in (1, 2, 3, 7, 14, 15, 27, 50, 200):
        theirs.set_timesteps(steps)
        sigmas, timesteps = noise_levels.levels(config, steps)
        assert sigmas.dtype == timesteps.dtype == np.float32
        # where training ends in pure noise, float32 has fewer digits for what is left of the picture
        tolerance = TOLERANCES["sigmas"] * (10 if "rescale_betas_zero_snr" in changes else 1)
        np.testing.assert_allclose(sigmas, theirs.sigmas.numpy(), rtol=tolerance, atol=0)
        np.testing.assert_allclose(timesteps, theirs.timesteps.float().numpy(), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize(("class_name", "changes"), CASES, ids=IDS)
def test_every_step_is_diffusers(class_name, changes):
    """Both use diffusers' levels, the same predictions and the same noise, so only the steps are compared."""
    theirs, config = both(class_name, changes)
    for steps in (1, 2, 3, 5, 16):
        theirs.set_timesteps(steps)
        theirs.set_begin_index(0)
        if class_name == schedulers.ANCESTRAL and changes.get("beta_schedule") == "squaredcos_cap_v2":
            continue  # adjacent levels of 20,000: diffusers rounds below 0, and the square root is NaN
        generator, drawn = torch.Generator().manual_seed(1), torch.Generator().manual_seed(9)
        ours = solvers.make(config, steps, lambda drawn=drawn: torch.randn(2, 3, generator=drawn).numpy())
        assert ours.initial == pytest.approx(float(theirs.init_noise_sigma), rel=1e-5)
        ours.sigmas = theirs.sigmas.numpy()
        x = torch.randn(2, 3, generator=generator) * theirs.init_noise_sigma
        mine, noise = x.numpy(), torch.Generator().manual_seed(9)
        for step, timestep in enumerate(theirs.timesteps):
            assert error(ours.seen(mine, step), theirs.scale_model_input(x, timestep)) < 1e-5
            answer = torch.randn(2, 3, generator=generator)
            output = theirs.step(answer, timestep, x, generator=noise)
            x = output.prev_sample
            mine, x0 = ours.step(mine, answer.numpy(), step)
            clean = theirs.model_outputs[-1] if class_name == schedulers.MULTISTEP else output.pred_original_sample
            assert error(x0, clean) < 1e-5
            assert error(mine, x) < 1e-5
            assert mine.dtype == np.float32
        assert drawn.get_state().equal(noise.get_state())  # the same number of draws


@pytest.mark.parametrize("class_name", schedulers.CONFIGS)
def test_a_picture_with_noise_is_what_diffusers_makes_of_it(class_name):
    theirs, config = both(class_name, {})
    theirs.set_timesteps(7)
    clean, noise = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    for step in (0, 3, 6):
        reference = theirs.add_noise(clean, noise, theirs.timesteps[step : step + 1])
        ours = solvers.make(config, 7, lambda: None)
        assert error(ours.noised(clean.numpy(), noise.numpy(), float(ours.sigmas[step])), reference) < 1e-6


def test_what_an_edit_leaves_of_the_steps_counts_as_the_end_of_all_of_them():
    """The careful last steps depend on the total number of steps, not on how many are left."""
    theirs, config = both(schedulers.MULTISTEP, {"final_sigmas_type": "sigma_min", "solver_order": 3})
    for steps in (8, 20):
        theirs.set_timesteps(steps)
        theirs.set_begin_index(steps - 5)
        ours = solvers.make(config, steps, lambda: None).after(steps - 5)
        assert ours.steps == 5
        x = torch.ones(2, 3)
        mine = x.numpy()
        for step, timestep in enumerate(theirs.timesteps[-5:]):
            answer = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
            x = theirs.step(answer, timestep, x, return_dict=False)[0]
            mine, _ = ours.step(mine, answer.numpy(), step)
            assert error(mine, x) < 1e-5


@pytest.mark.parametrize("name", schedulers.SCALED_NOISE)
@pytest.mark.parametrize("own", schedulers.CONFIGS)
def test_a_named_scheduler_is_diffusers_from_the_folders_configuration(own, name):
    """Whatever class the folder names, and whatever spacing it asks for."""
    changes = {"use_exponential_sigmas": True, "sigma_min": 0.05} if own == schedulers.EULER else {}
    changes |= {"solver_order": 3, "use_lu_lambdas": True} if own == schedulers.MULTISTEP else {}
    theirs, config = both(own, changes, name)
    theirs.set_timesteps(9)
    sigmas, timesteps = noise_levels.levels(config, 9)
    assert error(sigmas, theirs.sigmas) < TOLERANCES["sigmas"]
    assert error(timesteps, theirs.timesteps) < TOLERANCES["sigmas"]
    assert type(theirs).__name__ == schedulers.SCALED_NOISE[name].class_name
    if isinstance(config, schedulers.MultistepConfig):
        assert config.solver_order == theirs.config.solver_order
        assert config.algorithm_type == theirs.config.algorithm_type


@pytest.mark.parametrize(("class_name", "changes"), REFUSED)
def test_a_switch_that_is_not_run_is_refused(class_name, changes):
    with pytest.raises(EngineError) as caught:
        schedulers.choose({**SDXL, **changes}, class_name)
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", ["scheduler/scheduler_config.json"])
    assert class_name in str(caught.value)
