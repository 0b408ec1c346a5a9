"""A plugin: makes the classifier of `tiny_classifier` known that is no part of the package."""

from mambaxray import Family, register_family

register_family(
    Family(config="tiny_classifier:OutsideConfig", model="tiny_classifier:OutsideClassifier", stage="classify")
)
