"""Cluster Contrast (Dai et al., ACCV 2022): training without labels, by clusters and a memory of their centres."""
