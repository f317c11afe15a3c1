"""Backbone, head and losses of a config (fast-reid's Baseline), and MGN."""
