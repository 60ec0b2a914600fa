"""Figures, drawn from result files only: JSON, NPZ and JSON-lines in, PNG, PDF, SVG or HTML out.

Read `style` first: `style.sheet` opens a figure under its `style.Heading`, and everything else draws on its
panels. `results` reads result files, or says which one is required, and `results.conditions` what the heading
tells of the data. Then there is one file per kind of result:

=====================  ==============================================================================
`training`             learning curves, schedules and examples of a run; several runs compared
`evaluation`           robust accuracy against ε; the least and the most perturbed examples
`hessian` `density`    the ends of the spectrum of the Hessian; its density
`similarity`           perturbations along moves of the weights
`surface`              slices of the loss surface: curves, contours, and an interactive page
`dynamics`             gradient norms, errors and distances by update; dead units
`connectivity`         loss and error along the path between minima
`input`                slope, curvature and attacks of the loss around images
`theory`               linear models in closed form
`input_experiments`    noise on the weights, degraded training, steps of PGD, subsets of images
=====================  ==============================================================================

Nothing here imports TensorFlow or touches pyplot, so that figures can be drawn anywhere.
"""
