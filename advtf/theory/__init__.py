"""Section 3 and appendix A of Liu et al. 2020 as mathematics that runs: linear models in float64 NumPy.

Read `logistic` first, with eq. 6 and 7 of the paper beside it. Then take the statements in any order:

======================  =========================================================================
`norms`                 budgets ‖δ‖_p ≤ ε, their dual norms, and the ascent of a loss over a budget
`logistic`              binary regression under attack: eq. 6, 7 and 29, and Theorem 3
`smoothness`            Proposition 2: the loss stays Lipschitz while its gradient jumps; Figure 1
`multiclass`            K classes: bounds of the adversarial loss (eq. 13), and Proposition 1
`constant_classifier`   Theorem 1: from which ε on the constant classifier is optimal
`training`              adversarial training of linear models, a convex problem
`claims`                every statement above as a numerical check, which the study ``theory`` runs
======================  =========================================================================

Budgets are those of the paper, {x' : ‖x' − x‖_p ≤ ε}: unlike everywhere else in this package, x' may leave
the image range [0, 1].
"""
