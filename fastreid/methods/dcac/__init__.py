"""DCAC (Li & Gong, Sensors 2025): a re-identification model that learns from the loss of a diffusion model."""
