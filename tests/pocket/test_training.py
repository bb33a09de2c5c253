"""The parts that the pocket model's training relies on, each compared with what it must equal."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from pocket_model.channels import (  # noqa: E402
    PUBLISHED,
    narrowed_autoencoder,
    narrowed_transformer,
    widened_autoencoder,
    widened_transformer,
)
from pocket_model.codes import ATTRIBUTES, LOOKS, WIDTH, code  # noqa: E402
from pocket_model.drawings import COLOURS  # noqa: E402
from pocket_model.export import linear_preview  # noqa: E402
from pocket_model.latents import BLOCK, CHANNELS, fitted, recovered  # noqa: E402
from pocket_model.network import CONTEXT_LENGTH, OneForMany, build_transformer, velocity  # noqa: E402
from pocket_model.scenes import Scene, drawn, random_shape  # noqa: E402
from pocket_model.train_autoencoder import build_autoencoder  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

PACKAGING = Path(__file__).parents[2] / "packaging"


@pytest.fixture(scope="module")
def shapes():
    """[24, 3, 128, 128] in −1…1."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(24):
        ground = list(COLOURS.values())[rng.integers(len(COLOURS))]
        made.append(drawn(Scene(ground, shape=random_shape(rng, ground)[0]), np.zeros(0)))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) / 127.5 - 1


def test_one_context_token_counts_as_all_the_equal_ones_that_the_pipeline_gives():
    torch.manual_seed(1)
    model = build_transformer().eval()
    for weight in model.parameters():  # untrained modulations are zero, so everything would be equal
        if weight.requires_grad and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    x, codes, t = torch.randn(2, CHANNELS, 32, 32), torch.randn(2, WIDTH), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        whole = model(x, torch.randn(2, CONTEXT_LENGTH, WIDTH), codes, t * 1000).sample
        for block in model.transformer_blocks:
            block.attn.set_processor(OneForMany())
        one = velocity(model, x, codes, t)
    torch.testing.assert_close(one, whole, rtol=1e-4, atol=1e-4)
    assert whole.std() > 0.1


def test_latents_have_a_mean_square_of_one_and_lead_back_to_the_picture(shapes):
    latents = fitted(shapes)
    z = latents.encode(shapes)
    assert z.shape == (24, CHANNELS, 32, 32)
    assert z.square().mean().item() == pytest.approx(1, abs=0.02)
    error = (latents.decode(z) - shapes).square().mean()
    assert error < 0.01 * shapes.var()
    torch.testing.assert_close(latents.encode(latents.decode(z)), z, atol=1e-3, rtol=1e-3)


def test_the_map_of_the_latents_is_recovered_from_what_it_made(shapes):
    map_ = fitted(shapes)
    found = recovered(shapes, map_.encode(shapes))
    assert torch.allclose(found.encode(shapes), map_.encode(shapes), atol=1e-3)
    assert torch.allclose(found.decode(map_.encode(shapes)), map_.decode(map_.encode(shapes)), atol=1e-3)


def test_the_linear_preview_is_the_mean_colour_of_a_latents_pixels(shapes):
    latents = fitted(shapes)
    stored = linear_preview(latents)
    z = latents.encode(shapes)
    colours = (
        torch.einsum("nchw,cr->nrhw", z, torch.tensor(stored["matrix"])[:CHANNELS])
        + torch.tensor(stored["bias"])[:, None, None]
    )
    wanted = torch.nn.functional.avg_pool2d(latents.decode(z), BLOCK)
    torch.testing.assert_close(colours, wanted, atol=1e-4, rtol=1e-4)
    assert len(stored["matrix"]) == stored["latentChannels"] == PUBLISHED
    assert not torch.tensor(stored["matrix"])[CHANNELS:].any()


def test_with_sd3s_channels_the_networks_compute_what_they_did():
    torch.manual_seed(3)
    model, vae = build_transformer().eval(), build_autoencoder().eval()
    for weight in (*model.parameters(), *vae.parameters()):  # zeros would hide a mistake
        torch.nn.init.normal_(weight, std=0.05)
    x, more = torch.randn(1, CHANNELS, 32, 32), torch.randn(1, PUBLISHED - CHANNELS, 32, 32)
    given = torch.randn(1, 3, WIDTH), torch.randn(1, WIDTH), torch.tensor([300.0])
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for again in (False, True):
            wide, wide_vae = widened_transformer(model).eval(), widened_autoencoder(vae).eval()
            moved = wide(torch.cat([x, more], 1), *given).sample
            torch.testing.assert_close(moved[:, :CHANNELS], model(x, *given).sample, atol=1e-5, rtol=1e-5)
            assert not moved[:, CHANNELS:].any()
            seen = torch.cat([x, more], 1)
            torch.testing.assert_close(wide_vae.decode(seen).sample, vae.decode(x).sample, atol=1e-5, rtol=1e-5)
            told, wanted = wide_vae.encode(picture).latent_dist, vae.encode(picture).latent_dist
            torch.testing.assert_close(told.mean[:, :CHANNELS], wanted.mean, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(told.logvar[:, :CHANNELS], wanted.logvar, atol=1e-5, rtol=1e-5)
            assert not told.mean[:, CHANNELS:].any()
            if not again:
                model, vae = narrowed_transformer(wide).eval(), narrowed_autoencoder(wide_vae).eval()


def test_a_code_says_the_ground_the_style_and_the_looks():
    looks = np.random.default_rng(1).normal(size=(3, LOOKS)).astype(np.float32)
    first = code(Scene(COLOURS["blue"], 1, "flat"), looks)
    assert first.shape == (WIDTH,)
    np.testing.assert_array_equal(first[ATTRIBUTES:], looks[1])
    others = [Scene(COLOURS["green"], 1, "flat"), Scene(COLOURS["blue"], 1, "3d")]
    for other in others:
        np.testing.assert_array_equal(code(other, looks)[ATTRIBUTES:], looks[1])
        assert np.abs(code(other, looks)[:ATTRIBUTES] - first[:ATTRIBUTES]).max() > 0.5
    assert not code(Scene(COLOURS["blue"]), looks)[ATTRIBUTES:].any()


STAGE = """
import sys
from pathlib import Path
from pocket_model.running import Checkpoints  # noqa: E402
checkpoints = Checkpoints(Path(sys.argv[1]), "stage")
state = checkpoints.load() or {"step": 0}
print("from", state["step"], flush=True)
while True:
    state["step"] += 1
    checkpoints.after_step(lambda: state)
"""


def start(work):
    command = [sys.executable, "-c", STAGE, work]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=PACKAGING, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals and locks of Unix")
def test_a_stage_that_is_stopped_goes_on_where_it_was_and_runs_once_only(tmp_path):
    first = start(tmp_path)
    assert first.stdout.readline() == "from 0\n"
    second = start(tmp_path)
    _, told = second.communicate(timeout=50)
    assert second.returncode != 0
    assert "is being trained already" in told
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=50)
    assert first.returncode == 0
    assert not list(tmp_path.glob("*.new"))
    third = start(tmp_path)
    resumed = int(third.stdout.readline().split()[1])
    third.send_signal(signal.SIGTERM)
    third.communicate(timeout=50)
    assert resumed > 0
    assert torch.load(tmp_path / "stage.pt")["step"] > resumed


def test_the_learnt_position_table_is_what_every_loader_uses(tmp_path):
    from diffusers import SD3Transformer2DModel

    model = build_transformer()
    with torch.no_grad():
        model.pos_embed.pos_embed.mul_(2)
    assert model.pos_embed.pos_embed.requires_grad
    model.save_pretrained(tmp_path)
    again = SD3Transformer2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again.pos_embed.pos_embed, model.pos_embed.pos_embed.detach())


def test_a_shape_s_own_square_weighs_as_much_as_the_ground_up_to_a_bound():
    from pocket_model.scenes import FILLING, Scene, Shape
    from pocket_model.train_transformer import MOST_WEIGHT, loss_weights

    white = (255.0, 255.0, 255.0)
    thing = Scene(white, 3, "flat")
    small, filling = (
        Scene(white, shape=Shape("star", (255.0, 0.0, 0.0), extent, (31.0, 64.0))) for extent in (20.0, FILLING)
    )
    weights = loss_weights([thing, small, filling], 32)
    assert weights.shape == (3, 1, 32, 32)
    assert torch.allclose(weights.mean((1, 2, 3)), torch.ones(3), atol=1e-6)
    assert weights[0].unique().tolist() == [1.0]
    low, high = sorted(weights[1].unique().tolist())
    assert high / low == pytest.approx(MOST_WEIGHT)
    assert weights[1, 0, 16, 7] == high
    assert weights[1, 0, 0, 0] == low  # far from the shape
    assert weights[2, 0, 16, 7] >= weights[2, 0, 0, 31]


def test_a_run_without_the_optimiser_s_state_warms_up_again():
    from pocket_model.train_transformer import PEAK_RATE, WARM_UP, rate_at

    assert rate_at(15_000, 90_000, 15_000) == pytest.approx(PEAK_RATE / WARM_UP)
    assert rate_at(15_000 + WARM_UP, 90_000, 15_000) == PEAK_RATE == rate_at(15_000, 90_000)


def test_a_thing_is_paired_with_itself_in_another_style():
    from pocket_model.scenes import Scene, Shape
    from pocket_model.train_transformer import in_another_style

    rng = np.random.default_rng(1)
    thing = Scene((255.0, 0.0, 0.0), 7, "flat")
    others = {in_another_style(thing, rng) for _ in range(40)}
    assert others == {Scene(thing.ground, 7, style) for style in ("noto", "3d")}
    shape = Scene((255.0, 0.0, 0.0), shape=Shape("ring", (0.0, 0.0, 255.0), 44.0, (64.0, 64.0)))
    assert in_another_style(shape, rng) == shape


def test_only_what_tells_styles_apart_counts_twice():
    from pocket_model.train_transformer import pair_loss

    shared = torch.randn(2, 3, 4, 4)
    before = torch.randn(4, 3, 4, 4)  # not of a pair
    assert pair_loss(torch.cat([before, shared, shared]), 2) == 0
    assert pair_loss(torch.cat([before, shared, shared + 3]), 2) == pytest.approx(9)


class FakeWriter:
    """Two phrases, each for a different thing."""

    def __init__(self):
        self.meanings = {"cat": [0], "dogs": [1]}

    def of_thing(self, _rng, *, phrase, plural):
        from pocket_model.phrases import Caption

        return Caption(f"{phrase}s" if plural else phrase, Scene((0.0, 0.0, 0.0), self.meanings[phrase][0], "3d"))

    def held_out(self, _scene):
        return False


def test_what_the_text_encoders_get_wrong_is_practised_most(monkeypatch):
    from pocket_model import train_text

    looks = np.eye(2, LOOKS, dtype=np.float32)
    practice = train_text.Practice(FakeWriter(), looks)
    asked = practice.captions(np.random.default_rng(1), 60)
    assert {c.text for c in asked} == {"cat", "cats", "dogs"}  # "dogs" has no plural of its own

    def said(_encoders, texts):
        rows = {"cat": looks[0], "dogs": looks[1] + 0.1, "cats": looks[1]}
        return torch.from_numpy(np.stack([np.pad(rows[t], (ATTRIBUTES, 0)) for t in texts]))

    monkeypatch.setattr(train_text, "tokenise", lambda _tokenizer, texts: texts)
    monkeypatch.setattr(train_text, "pooled", said)
    practice.examine([], None)
    np.testing.assert_allclose(practice.errors, [0, 0.01, 2 / LOOKS], rtol=1e-4)
    asked = [c.text for c in practice.captions(np.random.default_rng(1), 300)]
    assert "cat" not in asked
    assert asked.count("dogs") / 300 == pytest.approx(0.01 / (0.01 + 2 / LOOKS), abs=0.08)


def test_text_encoders_that_were_shipped_are_trained_on_with_a_new_optimiser():
    from pocket_model.train_text import RATE, WARM_UP, rate_at, restored

    encoder = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(encoder.parameters(), 1.0)
    weights = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    assert restored({"step": 70, "parts": [weights, None]}, [encoder, optimiser]) == (70, 70)
    assert torch.equal(encoder.weight, torch.ones(2, 2))
    kept = optimiser.state_dict()
    assert restored({"step": 80, "parts": [weights, kept]}, [encoder, optimiser]) == (80, 0)
    assert rate_at(3000, 9000, 3000) == pytest.approx(RATE / WARM_UP)
    assert rate_at(3000 + WARM_UP, 9000, 3000) == RATE == rate_at(3000, 9000)


def test_the_style_is_said_louder_and_nothing_else_is():
    from transformers import CLIPTokenizer

    from pocket_model.codes import STYLE, WIDTHS, attributes
    from pocket_model.train_text import build_text_encoder, say_style_louder, tokenise

    folder = Path(__file__).parents[2] / "sidecar/locara_sidecar/models/pocket/tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    encoder = build_text_encoder(tokenizer, WIDTHS[0], 1, "quick_gelu").eval()
    ids = tokenise(tokenizer, ["a cat in flat style"])
    with torch.no_grad():
        before = encoder(ids).text_embeds.clone()
        say_style_louder(encoder, 1.5)
        after = encoder(ids).text_embeds
    wanted = before.clone()
    wanted[:, STYLE] *= 1.5
    torch.testing.assert_close(after, wanted)
    assert sorted(attributes(Scene((255, 255, 255), thing=0, style="flat"))[STYLE].tolist()) == [0.0, 0.0, 3.0]
