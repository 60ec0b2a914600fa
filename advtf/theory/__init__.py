"""Section 3 and appendix A of Liu et al. 2020 as mathematics that runs: linear models, in float64 NumPy.

======================  =====================================================================
norms                   l_p budgets, their dual norms and the directions that attain them
ascent                  projected and full-step ascent of the loss over a budget
logistic                binary regression: adversarial loss, gradient, Hessian (eq. 6, 7, 29)
curvature               curvature along directions as ε grows (Theorem 3)
multiclass              losses between which the adversarial loss lies (eq. 13), its worst case
version_space           the set V_ε of robust weights (Proposition 1)
constant_classifier     the set T_ε, where the origin is optimal, and ε̄ (Theorem 1)
training                adversarial training of linear models: a convex problem
enclosing               the l2 ball problem behind ε̄
smoothness              Lipschitz constants and the bounds they give (Proposition 2)
scalar                  g = log(1 + exp(θx)) and its kink (the sketch of Proposition 2)
binary_claims           checks of eq. 6, Proposition 2, Theorem 3
multiclass_claims       checks of Proposition 1, Theorem 1
======================  =====================================================================

Budgets are those of the paper, {x' : ‖x' − x‖_p ≤ ε}: unlike everywhere else in this package, x' may leave
the image range [0, 1].
"""
