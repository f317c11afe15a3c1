"""The methods: a folder each, with its config keys and its models.

`configs` lists the configs and `models` registers the models; neither is imported here, as a config needs no model.
"""
