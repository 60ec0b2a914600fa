"""The loss landscape over the weights θ: curvature, slices, curves between minima, and what training sees."""
