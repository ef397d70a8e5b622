"""The front of the data path: from a config to a prepared dataset, named by a fingerprint of all its inputs.

``qlora-fast prep`` and ``qlora-fast train`` both call :func:`prepare_config`; the second finds what the first made.
Nothing here imports torch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qlora_fast import _core
from qlora_fast.config import Config, of
from qlora_fast.config.keys import affecting
from qlora_fast.data import drop_reasons, sources
from qlora_fast.data.findings import Finding, findings, line, max_positions
from qlora_fast.data.sources import Dataset
from qlora_fast.data.tokenizer import Tokenizer, tokenizer_of
from qlora_fast.errors import ConfigError, DataError
from qlora_fast.hub import resolve
from qlora_fast.hub.cache import cache_dir

if TYPE_CHECKING:
    from qlora_fast._core import Options, Report, ShareReport
    from qlora_fast.data.dataset import PreparedDataset
    from qlora_fast.hub.manifest import Verify

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
PART_BYTES: int | None = None
"""Size of the parts of a preparation; None is the core's own. Only tests set it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared dataset on disk and the report of its making."""

    path: Path
    report: dict[str, Any] = field(repr=False)
    datasets: list[Dataset] = field(default_factory=list, repr=False)
    verify: Verify = "full"
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    _opened: list[PreparedDataset] = field(default_factory=list, repr=False, compare=False)

    @property
    def findings(self) -> list[Finding]:
        """What the preparation found that concerns a training on the data."""
        return findings(self.report)

    def reported(self) -> Prepared:
        """Itself; what the preparation found, if anything, is logged in one line: for commands that show no report."""
        if self.findings:
            log.warning("%s", line(self.report, self.findings))
        return self

    def open(self) -> PreparedDataset:
        """The dataset, mapped from disk; opened once, however often it is asked for."""
        from qlora_fast.data.dataset import open_prepared  # NumPy takes longer to import than small data to prepare

        if not self._opened:
            dataset = open_prepared(self.path, verify=self.verify)
            # Verified bytes are the tokenizer's own ids; others are compared with its vocabulary, which takes longer.
            if self.verify != "full" and self.tokenizer is not None:
                dataset.check_ids(resolve.largest_id(self.tokenizer.folder) + 1)
            self._opened.append(dataset)
        return self._opened[0]


def prepare_config(
    config: Config,
    data: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare ``data`` (default: the config's dataset), resume what a killed process left, or find it prepared.

    Args:
        out: the folder to write; default ``prepared_dir/NAME-FINGERPRINT``.
        progress: called with (stage, bytes done, bytes in all) a few times a second.

    Raises:
        DataError: a file is missing, broken, or nothing of it can be trained on.
        TokenizerError: the tokenizer or the template does not fit.
        ArtifactError: ``out`` exists and is something else.
    """
    datasets, tokenizer = _datasets(config, data), tokenizer or tokenizer_of(config)
    with _explained():
        report = _core.prepare(_options(config, datasets, out, tokenizer), progress)
    return _prepared(report, datasets, config.verify, tokenizer)


@contextmanager
def _explained() -> Iterator[None]:
    """Where the fault of a row ends the work, add to the hint what its reason means: the core knows names only."""
    try:
        yield
    except DataError as error:
        found = drop_reasons.explain(error.reason) if error.reason else None
        if found is not None:
            error.hint = f"{error.hint}\n{found}" if error.hint else str(found)
        raise


def prepare_share(
    config: Config,
    data: Sequence[str] | None = None,
    *,
    number: int,
    count: int,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> ShareReport:
    """Make one of ``count`` shares of the same work (the first is number 1), for :func:`merge_shares` to join.

    Shares can run at the same time, on any machines that see the same files and the same ``out``.

    Raises:
        DataError, TokenizerError, ArtifactError: see :func:`prepare_config`.
    """
    options = core_options(config, data, out=out)
    with _explained():
        return _core.prepare_share(options, number, count, progress)


def merge_shares(
    config: Config,
    data: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Join what shares have made: only names and counts, no data is read. The bytes are those of one process.

    Raises:
        ArtifactError: a share is missing.
    """
    datasets = _datasets(config, data)
    with _explained():
        report = _core.merge(_options(config, datasets, out), progress)
    return _prepared(report, datasets, config.verify)


def core_options(
    config: Config,
    data: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
) -> Options:
    """Everything that the core has to know of a preparation.

    Raises:
        DataError, TokenizerError: see :func:`prepare_config`.
    """
    return _options(config, _datasets(config, data), out, tokenizer)


def _datasets(config: Config, data: Sequence[str] | None) -> list[Dataset]:
    return sources.resolve(config.dataset if data is None else data, config.dataset_dir, outside=config.dataset_outside)


def _options(
    config: Config, datasets: list[Dataset], out: str | Path | None, tokenizer: Tokenizer | None = None
) -> Options:
    tokenizer = tokenizer or tokenizer_of(config)
    _check_placeholders(datasets, config.variables)
    # The settings have the names and types of the core's options.
    options: dict[str, Any] = {
        "data": [file for dataset in datasets for file in dataset.options()],
        "tokenizer": tokenizer.file,
        "template": tokenizer.template,
        "default_system": tokenizer.default_system,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        **{name: getattr(config, name) for name in affecting("data", "preparation")},
        "cache": str(cache_dir()),
        "out": "",
    }
    if PART_BYTES is not None:
        options["part_bytes"] = PART_BYTES
    if out is None:
        fingerprint = _core.fingerprint(cast("Options", options))
        stem = "+".join(dict.fromkeys(_stem(dataset) for dataset in datasets))
        out = Path(config.prepared_dir) / f"{stem[:60]}-{fingerprint[:10]}"
    options["out"] = str(out)
    return cast("Options", options)


def _prepared(report: Report, datasets: list[Dataset], verify: Verify, tokenizer: Tokenizer | None = None) -> Prepared:
    for file in report.get("remade", ()):
        log.warning("`%s` was damaged and was made again from its source", Path(report["path"]) / file)
    if "set_aside" in report:
        log.warning("the damaged folder was renamed to `%s`: nothing of it was deleted", report["set_aside"])
    known: dict[str, Any] = {**report}
    known["template_note"] = None if tokenizer is None else tokenizer.template_note
    known["model_positions"] = None if tokenizer is None else max_positions(tokenizer.folder)
    return Prepared(Path(report["path"]), known, datasets, verify, tokenizer)


def prepare(
    data: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> PreparedDataset:
    """Prepare files for training and open the result: what ``qlora-fast prep`` does.

    The same inputs are prepared once; calling it again finds the folder. A killed preparation is resumed.

    Args:
        data: one or several files, folders, globs, or names of a ``dataset_info.json``: Alpaca, ShareGPT or OpenAI
            messages, as a JSON array, JSONL (plain, .gz, .zst) or Parquet.
        out: the folder to write; default ``prepared_dir/NAME-FINGERPRINT``.
        progress: called with (stage, bytes done, bytes in all) a few times a second.
        settings: config keys (docs/configuration.md), such as ``cutoff_len`` (tokens); ``model_name_or_path`` selects
            tokenizer and chat template.

    Returns:
        The dataset, mapped from disk: ``dataset[i]`` has ``input_ids`` and ``labels``, int32, (tokens,).

    Raises:
        ConfigError: a setting is unknown or out of its limits.
        DataError: a file is missing or damaged, or no row of it can be used.
        TokenizerError: the tokenizer or the template does not fit the model.
        ArtifactError: ``out`` exists and is something else.

    Example:
        >>> dataset = qlora_fast.prepare("data.json", model_name_or_path="models/tiny", cutoff_len=256)
        >>> len(dataset), int(dataset.lengths.max()) <= 256
        (20, True)
        >>> (dataset[0]["labels"] == -100).any()  # the prompt has no loss
        np.True_
    """
    files = [str(data)] if isinstance(data, str | Path) else [str(f) for f in data]
    config = of(dataset=files, **settings)
    return prepare_config(config, out=out, progress=progress).open()


def _stem(dataset: Dataset) -> str:
    """A short name of a dataset, for its folder."""
    stem = "stdin" if dataset.name == "-" else Path(dataset.files[0]).stem
    if len(dataset.files) > 1:
        stem = Path(dataset.name).stem if "*" not in dataset.name else Path(dataset.files[0]).parent.name or stem
    return re.sub(r"[^\w.-]", "_", stem)


def _check_placeholders(datasets: Sequence[Dataset], variables: Mapping[str, str]) -> None:
    """The embedded identity data means nothing while its placeholders are not filled."""
    missing = [name for name in ("name", "author") if name not in variables]
    files = [Path(f) for dataset in datasets for f in dataset.files]
    if missing and any(f.name == "identity.json" and f.parent.name == "assets" for f in files):
        raise ConfigError(
            f"the embedded dataset `identity`, which is trained on where no `dataset` is set, needs {' and '.join(missing)}",
            hint="name your data: `dataset: data.json`; or the model and its author: "
            "`variables: {name: Kestrel, author: Harbour Lab}`",
        )
