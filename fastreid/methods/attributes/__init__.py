"""Person attributes: a network with one probability for each attribute (fast-reid's project FastAttr)."""
