"""The linter: each kind of defect is found, and a good card has none."""

from __future__ import annotations

import pytest
from publish.planted_runs import plant_run

from hf_imgcls.arguments.hub_names import is_repo_id, list_licenses
from hf_imgcls.errors import CardError
from hf_imgcls.publish.card import check_card, write_card
from hf_imgcls.publish.hub_rules import find_metadata_problems
from hf_imgcls.publish.lint import lint_card


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = plant_run(tmp_path_factory.mktemp("lint") / "animals")
    write_card(folder)
    return folder


@pytest.fixture
def card(run_folder):
    text = (run_folder / "README.md").read_text()
    assert lint_card(text, run_folder) == []
    return text


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("Energy and emissions: not measured.", "Energy: [More Information Needed]", "a blank is left"),
        ("Energy and emissions: not measured.", "Energy: TODO", "a blank is left: 'TODO'"),
        ("Energy and emissions: not measured.", "Energy: {{ energy }}", "a mark of the template"),
        ("Energy and emissions: not measured.", "{% if energy %}", "a mark of the template"),
        ("Energy and emissions: not measured.", "See /home/jane/energy.txt", "a local path: /home/jane/energy.txt"),
        ("Energy and emissions: not measured.", "See `~/energy.txt`", "a local path: ~/energy.txt"),
        ("Energy and emissions: not measured.", "See C:\\Users\\jane\\energy", "a local path"),
        ("Energy and emissions: not measured.", "See file:///energy", "a local path"),
        (
            "Energy and emissions: not measured.",
            "![plot](report/energy.png)",
            "a link leads nowhere: report/energy.png",
        ),
        ("Energy and emissions: not measured.", '<img src="report/energy.png">', "a link leads nowhere"),
        ("Energy and emissions: not measured.", "[notes](/notes.md)", "a link leads nowhere: /notes.md"),
        ("Energy and emissions: not measured.", "## Energy", "the section 'Energy' is empty"),
        ("| train | train |", "| train | a|b |", "a table is broken"),
        ("license: apache-2.0", "license: apache2", "license is 'apache2'"),
        ("license: apache-2.0", "license: other", "license other without a name or a link"),
        ("license: apache-2.0", "license:", "'license' is empty"),
        ("license: apache-2.0", "license: [apache-2.0", "the metadata is no YAML"),
        ("license: apache-2.0", "license: other\nlicense_name: x\nlicense_link: LICENSE", "no such file"),
        ("pipeline_tag: image-classification", "pipeline_tag: Image Classification", "'pipeline_tag' with value"),
        ("base_model: google/vit-base", "base_model: /models/vit-base", "'base_model' with value '/models/vit-base'"),
        ("base_model: google/vit-base", "base_model: my vit", "is no id of a model"),
        ("base_model_relation: finetune", "base_model_relation: child", "'base_model_relation' with value 'child'"),
        ("base_model: google/vit-base\n", "", "'base_model_relation' without 'base_model'"),
        ("datasets:\n- me/animals", "datasets: me/animals", "'datasets' must be a list of strings"),
        ("datasets:\n- me/animals", "datasets:\n- ./animals", "'datasets' with value './animals'"),
        ("- hf_imgcls\n", "- 7\n", "'tags' must be a list of strings"),
        ("metrics:\n- accuracy", "metrics:\n- [accuracy]", "'metrics' must be a list of strings"),
        ("      type: me/animals", "      type: 7", "dataset.type' must be a string"),
        ("      config: large", "      config: 7", "dataset.config' must be a string"),
        ("      name: me/animals\n", "", "dataset.name' must be a string"),
        ("library_name: transformers", "language: English\nlibrary_name: transformers", "'language' with value"),
        ("library_name: transformers", "widget:\n- src: a.png\nlibrary_name: transformers", "widget's example a.png"),
        ("library_name: transformers", "widget:\n- text: a\nlibrary_name: transformers", "must have 'src'"),
    ],
)
def test_each_kind_of_defect_is_found(card, run_folder, old, new, problem):
    assert old in card
    found = lint_card(card.replace(old, new, 1), run_folder)
    assert any(problem in text for text in found), found


def test_a_value_that_is_no_number_is_found(card, run_folder):
    start = card.index("      value: ")
    end = card.index("\n", start)
    for value in ("'0.9'", ".nan", ""):
        found = lint_card(card[:start] + f"      value: {value}" + card[end:], run_folder)
        assert any("must be a number" in text for text in found), found


def test_a_card_without_metadata_is_found(run_folder):
    assert lint_card("# animals\n\nGood.\n", run_folder) == ["there is no metadata block at the top"]


def test_the_runs_own_folder_is_found(card, run_folder):
    found = lint_card(card + f"\nSee {run_folder.resolve()}/model.safetensors\n", run_folder)
    assert any(str(run_folder.resolve()) in text for text in found)


def test_code_and_urls_are_no_links_and_no_paths(card, run_folder):
    text = "\n`a[0](x)` at <https://x.org/home/me/a.png> and [b](https://x.org/tmp/a) and [c](#results)\n"
    assert lint_card(card + text, run_folder) == []


def test_checking_names_all_problems_at_once(run_folder, card, tmp_path):
    folder = plant_run(tmp_path / "animals")
    (folder / "README.md").write_text(card.replace("license: apache-2.0", "license: apache2") + "\n## Empty\n\nTODO\n")
    with pytest.raises(CardError) as error:
        check_card(folder)
    assert "2 problems" in str(error.value)
    assert "apache2" in str(error.value)
    assert "TODO" in str(error.value)
    assert "to fix:" in str(error.value)


def test_the_list_of_licences_is_the_hubs():
    known = list_licenses()
    assert {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-sa-4.0", "openrail++", "llama3.3", "other", "unknown"} <= set(
        known
    )
    assert len(known) == len(set(known)) > 75


@pytest.mark.parametrize("name", ["digits", "me/digits", "me/d.i-g_its", "a/" + "b" * 90])
def test_names_that_a_repository_can_have(name):
    assert is_repo_id(name)


@pytest.mark.parametrize("name", ["", "a b", "/a", "a/", "a/b/c", "me/..", "me/a--b", "me/x.git", "a/" + "b" * 96, 7])
def test_names_that_it_cannot_have(name):
    assert not is_repo_id(name)


def test_minimal_metadata_is_fine_and_a_list_of_base_models_too():
    assert find_metadata_problems({}) == []
    assert find_metadata_problems({"base_model": ["a/b", "c/d"], "language": ["en", "deu"]}) == []
