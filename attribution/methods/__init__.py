"""How a map is made: one signature, one registry."""
