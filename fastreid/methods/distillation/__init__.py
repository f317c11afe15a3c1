"""Distillation: a small network is trained with the logits, and the feature maps, of trained larger ones."""
