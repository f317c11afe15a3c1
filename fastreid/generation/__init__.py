"""Writing and filtering pictures of people (Diffusion-ReID): captions, pictures, filters, export, pre-training sets.

Nothing is imported here, as the config of this folder needs none of it.
"""
