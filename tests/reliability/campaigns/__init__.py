"""One file for each kind of fault. :data:`CAMPAIGNS` has them in the order of the table."""

from __future__ import annotations

from reliability.campaigns import (
    checkpoints,
    control_tokens,
    damaged_runs,
    errors,
    flips,
    hostile_data,
    hostile_models,
    identity,
    json_suite,
    kills,
    limits,
    random_kills,
)
from reliability.case import Campaign

CAMPAIGNS: tuple[Campaign, ...] = (
    *kills.CAMPAIGNS,
    random_kills.CAMPAIGN,
    errors.CAMPAIGN,
    limits.CAMPAIGN,
    flips.CAMPAIGN,
    checkpoints.CAMPAIGN,
    damaged_runs.CAMPAIGN,
    identity.CAMPAIGN,
    hostile_data.CAMPAIGN,
    json_suite.CAMPAIGN,
    control_tokens.CAMPAIGN,
    hostile_models.CAMPAIGN,
)
