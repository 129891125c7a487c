"""What can be wrong with what a learner, an estimate or a bundle is given."""


class LearnersError(ValueError):
    """Base of all errors of this folder."""


class ContextError(LearnersError):
    """A context's field has a value that the feature schema cannot take."""


class InteractionError(LearnersError):
    """An interaction holds a value that must never reach a learner."""


class SpecError(LearnersError):
    """A learner's specification names something that does not exist or is out of range."""


class SnapshotError(LearnersError):
    """A snapshot is damaged, or belongs to another learner."""


class RewardError(LearnersError):
    """A reward function is malformed, or names a metric that is not there."""


class EstimateError(LearnersError):
    """A log can not be evaluated off-policy."""


class BundleError(LearnersError):
    """A bundle is damaged, not trusted, expired, or fails its own golden vectors."""


class MiscomputedError(BundleError):
    """A bundle computes otherwise here than where it was made, or cannot show that it does not."""


class FrontierError(LearnersError):
    """Points, levels or attempts do not make a frontier of cost and score."""


class PreferenceError(LearnersError):
    """Pairwise votes are malformed, or no strengths can be fitted to them."""


class CalibrationError(LearnersError):
    """Scores and outcomes do not make a calibration."""


class PacingError(LearnersError):
    """A budget or a horizon is out of range."""


class HeadError(LearnersError):
    """Rows, classes or numbers do not make a head."""
