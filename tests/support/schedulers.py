"""``scheduler_config.json`` of published SDXL models, and what people change in it."""

SDXL = {
    "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
    "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None,
    "use_karras_sigmas": False,
}  # fmt: skip
"""SDXL base 1.0's, as diffusers' documentation and many copies have it."""

CHANGES = {
    "as published": {},
    "v_prediction": {"prediction_type": "v_prediction"},
    "zero SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "zero SNR, linspace": {"rescale_betas_zero_snr": True, "timestep_spacing": "linspace"},
    "linspace": {"timestep_spacing": "linspace", "steps_offset": 0},
    "linear betas": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "cosine betas": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    "betas of its own": {"trained_betas": [0.0002 * 1.004**i for i in range(1000)]},
    "defaults": {"_use_default_values": ["beta_schedule", "beta_start", "beta_end", "timestep_spacing"]},
}
"""What any class reads."""
EULER = {
    "sample": {"prediction_type": "sample", "timestep_spacing": "trailing"},  # Lightning's one-step model
    "Karras": {"use_karras_sigmas": True},
    "Karras within bounds": {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 12.0},
    "exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "a last level": {"final_sigmas_type": "sigma_min"},
    "zero SNR, Karras": {"rescale_betas_zero_snr": True, "use_karras_sigmas": True, "timestep_spacing": "trailing"},
    "continuous": {"timestep_type": "continuous"},
}
"""What EulerDiscreteScheduler reads besides."""
MULTISTEP = {
    "sample": {"prediction_type": "sample"},
    "first order": {"solver_order": 1},
    "third order": {"solver_order": 3},
    "Heun": {"solver_type": "heun"},
    "another class's solver": {"solver_type": "bh2"},
    "no lower order": {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    "no lower order, third": {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    "a last level": {"final_sigmas_type": "sigma_min"},
    "Euler at the end": {"euler_at_final": True, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "even lambdas": {"use_lu_lambdas": True},
    "clipped lambdas": {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    "cosine, Karras": {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1, "use_karras_sigmas": True},
    "stochastic": {"algorithm_type": "sde-dpmsolver++"},
    "stochastic, first order": {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
    "stochastic, Heun": {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    "stochastic, third order": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "lower_order_final": False},
    "stochastic, Karras": {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    "zero SNR": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
}
"""What DPMSolverMultistepScheduler reads besides."""
REFUSED = [
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "use_exponential_sigmas": True}),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {"beta_schedule": "sigmoid"}),
    ("EulerDiscreteScheduler", {"prediction_type": "flow_prediction"}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "quadratic"}),
    ("EulerDiscreteScheduler", {"num_train_timesteps": 0}),
    ("EulerDiscreteScheduler", {"trained_betas": [0.1, 0.2]}),
    ("EulerAncestralDiscreteScheduler", {"prediction_type": "sample"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("DPMSolverMultistepScheduler", {"thresholding": True}),
    ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 4}),
    ("DPMSolverMultistepScheduler", {"use_beta_sigmas": True}),
]
"""Class and configuration that no engine runs."""
