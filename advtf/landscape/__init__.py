"""The loss landscape: over the weights θ of a classifier, and around its images.

Read `objective` first: the adversarial loss L_ε(θ) of a set of images. The other files compute its curvature,
slices and curves. Then read `hessian`, products with ∇²θ L that never form it, and `lanczos`, which finds
eigenpairs from them. Whatever moves weights takes a `Classifier` of `advtf.classifiers`.

=================  ========================================================================================
objective          L_ε(θ) and the robust error, the attack made anew at every call; adversarial images
hessian            v ↦ ∇²θ L v of one set of images
linear_part        a function linear in a direction, with what does not depend on the direction done once
lanczos            a few eigenpairs of a symmetric operator, at either end of its spectrum
power              power iteration with deflation, as the paper computes them
density            the whole spectrum, by stochastic Lanczos quadrature
eigen              what these solvers share: the result, the checked operator, products with a tall basis
surface            L_ε on a line or a plane of weights
curves             Bezier curves and polygonal chains between two classifiers, and the loss along them
batch_statistics   BatchNorm's running statistics for weights that were not trained but constructed
similarity         how alike the perturbations at neighbouring weights are
random_loss        the mean of L_ε over random weights, by which eigenvalues are normalised
units              dead units and dead layers
inputs             slope, curvature and attacks of the loss around each image
input_hessian      eigenvalues of ∇²ₓ L of every image
batched_lanczos    Lanczos on many small operators side by side
twin               the softplus twin of a ReLU network, which is twice differentiable
statistics         means with standard errors, rank correlations, means of subsets
=================  ========================================================================================

Sections and equations are those of Liu et al. 2020 for the weights and of Li & Spratling 2023 for the inputs.
"""
