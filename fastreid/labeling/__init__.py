"""Labels without people: clusters of features, the pseudo-labels that they give, and what is made from them.

Nothing is imported here, as the config of this folder needs none of it.
"""
