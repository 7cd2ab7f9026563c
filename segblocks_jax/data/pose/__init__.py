"""Images of people with their joints: MPII, and procedural stick figures."""
