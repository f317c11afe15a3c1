"""Diffusion-ReID: a generator of people for pre-training (Niu et al., Machine Learning 114(3), 2025)."""
