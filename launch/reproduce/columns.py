"""What the values of the entries are called, with their units: the headings of the tables of the report."""

COLUMNS = {
    "all_true": "all true",
    "effectiveness_is_steadier": "effectiveness is steadier",
    "mean_over_rates": "mean PGD error over learning rates (%)",
    "best": "lowest PGD error (%)",
    "worst": "highest PGD error (%)",
    "dead_units": "dead units (%)",
    "curve_barrier": "barrier on the curve (nats)",
    "curve_dip": "fall of the curve below its ends (nats)",
    "line_barrier": "barrier on the line (nats)",
    "curve_largest": "largest loss on the curve (nats)",
    "error_largest": "largest test error on the curve (%)",
    "accuracy_50": "robust accuracy, 50 steps (%)",
    "accuracy_most": "robust accuracy, most steps (%)",
    "accuracy_lost": "accuracy lost beyond 50 steps (points)",
    "av_rise": "rise of AV beyond 50 steps (%)",
    "drop_difference": "drop of FGSM less that of PGD-10",
    "train_effectiveness": "effectiveness while training",
    "clean_error": "clean error (%)",
    "pgd_error": "PGD error (%)",
    "pgd": "PGD (%)",
    "pgd100": "PGD-100 (%)",
    "apgd_ce": "APGD-CE (%)",
    "apgd_dlr": "APGD-DLR (%)",
    "square": "Square (%)",
    "autoattack": "AutoAttack (%)",
    "evaluated_clean_error": "clean, attacked images (%)",
    "examples": "test images",
    "images": "attacked images",
    "attacked_images": "attacked images",
    "gap": "best − end against PGD (points)",
    "clean_best": "clean accuracy at the best epoch (%)",
    "clean_end": "clean accuracy at the end (%)",
    "robust_best": "robust accuracy at the best epoch (%)",
    "robust_end": "robust accuracy at the end (%)",
    "robust_gap": "best − end (points)",
    "ig": "IG",
    "hs": "HS",
    "ig_train": "IG on training images",
    "ig_test": "IG on test images",
    "hs_train": "HS on training images",
    "hs_test": "HS on test images",
    "av_train": "AV on training images",
    "av_test": "AV on test images",
    "av_gap": "AV, test − training",
    "adv_gap": "adversarial loss, test − training",
    "effectiveness_train": "effectiveness on training images",
    "effectiveness_test": "effectiveness on test images",
    "gradient_norm_first": "first gradient norms",
    "gradient_norm_last": "last gradient norms",
    "distance_first": "first distance from the start",
    "distance_last": "last distance from the start",
    "lambda_1": "λ₁",
    "lambda_last": "last λ",
    "lambda_1_normalised": "λ₁, normalised",
    "random_loss_ratio": "largest loss at random θ divided by the smallest",
    "cosine_eigenvector": "cosine along the top eigenvector",
    "cosine_random": "cosine along a random direction",
    "cosine_difference": "difference of these cosines",
    "largest_variance": "largest variance of a cosine",
    "error_rise_eigenvector": "rise of the robust error along the top eigenvector (points)",
    "error_rise_random": "rise along a random direction (points)",
    "error_end_eigenvector": "robust error far along the top eigenvector (%)",
    "error_end_random": "far along a random direction (%)",
    "loss_first": "loss of the first epoch (nats)",
    "loss_last": "loss of the last epoch (nats)",
    "loss_range": "range of the loss (nats)",
    "loss_rise": "rise of the loss around the weights (nats)",
    "random_loss": "loss at random θ",
    "robust_apgd": "robust accuracy, APGD-CE (%)",
    "images_per_second": "images per second",
    "step_ratio": "step relative to the baseline (×)",
    "step_of_advlc": "step of AdvLC relative to this one (×)",
    "rho": "Spearman's ρ",
    "rho_ig": "ρ with IG",
    "rho_hs": "ρ with HS",
    "fgsm": "effectiveness of FGSM",
    "pgd10": "effectiveness of PGD-10",
}
DEVIATION = "largest_deviation_"  # followed by the number of images of the subsets
YES_OR_NO = ("all_true", "effectiveness_is_steadier")  # values that are 1 or 0


def heading(name: str) -> str:
    """Returns what a reader calls a column, and a row or a curve that is named after a measure."""
    if name.startswith(DEVIATION):
        return f"largest deviation, {int(name.removeprefix(DEVIATION)):,} images (%)"
    return COLUMNS.get(name, name.replace("_", " "))


def in_words(name: str) -> str:
    """Returns the name of a value as a reader says it, such as ``PGD error of constant, ε = 0.3``."""
    row, _, column = name.rpartition(":")
    called = heading(column).partition(" (")[0]
    return f"{called} of {heading(row)}" if row else called
