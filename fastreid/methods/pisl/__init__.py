"""PISL: re-identification without labels, with patches that a diffusion model places (Tao et al., TIP 2024)."""
