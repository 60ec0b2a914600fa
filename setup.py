"""The packages: advtf, and the folder flags/ as advtf.recipes. All else stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["advtf", "advtf.*"]), "advtf.recipes"],
    package_dir={"advtf.recipes": "flags"},
    package_data={"advtf.recipes": ["**/*.flags"], "advtf.reports": ["page.css"]},
)
