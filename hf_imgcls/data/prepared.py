"""What was prepared from the Hub, so that the same command finds it again without the Hub.

The ``datasets`` library looks in its cache for a dataset's name only, and takes whatever revision lies there. What was
prepared under another name (some of the splits, a conversion) it does not find. Here each preparation leaves a line:
what was asked, which commit that was, and where the rows are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import DatasetBuilder, config, load_dataset_builder
from datasets.packaged_modules.cache.cache import Cache

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.cache import write_atomically
from hf_imgcls.data.splits import requested_splits
from hf_imgcls.errors import DataError

_FOLDER = "hf_imgcls_prepared"


@dataclass(frozen=True)
class Prepared:
    """One preparation.

    Attributes:
        name: The dataset's id on the Hub.
        asked_config: ``--dataset_config_name``.
        asked_revision: ``--dataset_revision``.
        config: The configuration that was read.
        revision: The commit that was read.
        splits: Names of the splits that were prepared.
        repo_id: As the builder has it; None where it reads single files.
        dataset_name: As the builder has it.
        folder: Where the rows are, below the ``datasets`` cache: dataset, configuration, version, hash.
        archives: Split -> the archive of class folders on this machine, in place of a folder.
        asked_splits: Role -> split name, where one was asked for.
    """

    name: str
    asked_config: str | None
    asked_revision: str | None
    config: str | None
    revision: str | None
    splits: list[str]
    repo_id: str | None
    dataset_name: str
    folder: str
    archives: dict[str, str] = field(default_factory=dict)
    asked_splits: dict[str, str] = field(default_factory=dict)

    def open(self, root: Path) -> DatasetBuilder:
        """Open the rows as ``datasets`` opens what is in its cache."""
        if self.archives:
            return load_dataset_builder("imagefolder", data_files=self.archives, cache_dir=str(root))
        _, config_id, version, digest = Path(self.folder).parts
        return Cache(
            cache_dir=str(root),
            dataset_name=self.dataset_name,
            repo_id=self.repo_id,
            config_name=config_id,
            version=version,
            hash=digest,
        )


def find_root(args: DataArguments) -> Path:
    """Return the folder of the ``datasets`` cache."""
    return Path(args.cache_dir or config.HF_DATASETS_CACHE).expanduser()


def remember_prepared(
    builder: DatasetBuilder, args: DataArguments, used_config: str | None, revision: str | None
) -> None:
    """Write down what was prepared; without room or permission nothing is.

    Args:
        builder: After ``download_and_prepare``.
        args: What was asked.
        used_config: The configuration that was read.
        revision: The commit that was read.
    """
    root = find_root(args)
    try:
        folder = Path(builder.cache_dir).relative_to(root)
        prepared = Prepared(
            str(args.dataset_name), args.dataset_config_name, args.dataset_revision, used_config, revision,
            list(builder.info.splits or {}), builder.repo_id, builder.dataset_name, str(folder),
            asked_splits=_name_splits(args),
        )  # fmt: skip
    except ValueError:  # elsewhere
        return
    _write(root, prepared)


def remember_archives(archives: dict[str, str], args: DataArguments, used_config: str | None, revision: str) -> None:
    """Write down which archives a dataset consists of: split -> path on this machine."""
    name = str(args.dataset_name)
    prepared = Prepared(
        name, args.dataset_config_name, args.dataset_revision, used_config, revision, list(archives), None, name, "",
        archives, _name_splits(args),
    )  # fmt: skip
    _write(find_root(args), prepared)


def _write(root: Path, prepared: Prepared) -> None:
    try:
        text = json.dumps(asdict(prepared), sort_keys=True)
        path = root / _FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(text.encode())
    except OSError:  # a run must not fail for the next one's sake
        return


def _name_splits(args: DataArguments) -> dict[str, str]:
    """Return role -> split name, for the roles that the user gave one."""
    return {role: name for role, name in requested_splits(args).items() if name}


def find_prepared(args: DataArguments) -> Prepared | None:
    """Find the preparation that answers what is asked: the newest with the same split names, or else with all of them.

    Args:
        args: ``dataset_name``, ``dataset_config_name``, ``dataset_revision``, ``cache_dir`` and the split names.

    Raises:
        DataError: Several configurations do, and none is named.
    """
    main, asked = (None, "main"), _name_splits(args)
    found = [
        prepared
        for prepared in _list_prepared(find_root(args))
        if prepared.name == args.dataset_name
        and set(asked.values()) <= set(prepared.splits)
        and (
            args.dataset_revision in (prepared.revision, prepared.asked_revision)
            or (args.dataset_revision in main and prepared.asked_revision in main)
        )
        and args.dataset_config_name in (None, prepared.asked_config, prepared.config)
    ]
    # The configuration that is taken where none is named was taken before.
    found = [prepared for prepared in found if prepared.asked_config == args.dataset_config_name] or found
    configs = sorted({str(prepared.config) for prepared in found})
    if len(configs) > 1:
        raise DataError(
            f"--dataset_config_name is not given, and the cache has {len(configs)} of {args.dataset_name}",
            f"one of: {', '.join(configs)}",
            f"pass --dataset_config_name {configs[0]}, for example",
        )
    # Without split names the same command takes what it took before, not the only split that another one asked for.
    found = [prepared for prepared in found if prepared.asked_splits == asked] or found
    return found[-1] if found else None


def _list_prepared(root: Path) -> Iterator[Prepared]:
    """List the preparations whose rows are still there, the oldest first."""
    files = [path for path in (root / _FOLDER).glob("*.json") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        try:
            prepared = Prepared(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        needed = prepared.archives.values() or [str(root / prepared.folder / "dataset_info.json")]
        if all(Path(file).is_file() for file in needed):
            yield prepared
