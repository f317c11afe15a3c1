"""PISL (Tao et al., TIP 2024): re-identification without person labels, by patches that a diffusion model places."""
