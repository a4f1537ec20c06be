"""What may be asked for, and which files of a repository are taken."""

from __future__ import annotations

import pytest

from modules.errors import DownloadError, InvalidInputError
from modules.loader.download.choice import Choice, choose
from modules.loader.download.listing import (
    DownloadRequest,
    RemoteFile,
    folder_name,
    is_plain_path,
)

GPTQ = ["config.json", "model.safetensors", "quantize_config.json", "tokenizer.model"]


def choice(*paths: str, **options: object) -> Choice:
    request = DownloadRequest(model="a/b", **options)  # type: ignore[arg-type]
    files = tuple(RemoteFile(path, 1, "") for path in paths)
    return choose(files, request, request.excluded(), "a/b")


def taken(*paths: str, **options: object) -> list[str]:
    return [file.path for file in choice(*paths, **options).files]


# -- requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "branch", "expected"),
    [
        ("TheBloke/Llama-2-7B-GPTQ", "", ("TheBloke/Llama-2-7B-GPTQ", "main")),
        (" a/b\n", "", ("a/b", "main")),
        ("a/b:", "", ("a/b", "main")),
        ("a/b:gptq-4bit-32g-actorder_True", "", ("a/b", "gptq-4bit-32g-actorder_True")),
        ("a/b", "refs/pr/1", ("a/b", "refs/pr/1")),
        ("a/b:x", "x", ("a/b", "x")),
    ],
)
def test_a_model_and_its_branch_are_understood(
    model: str, branch: str, expected: tuple[str, str]
) -> None:
    assert DownloadRequest(model=model, branch=branch).repo_and_branch() == expected


@pytest.mark.parametrize(
    "model",
    [
        "",
        "a",
        "a/b/c",
        "../b",
        "a/..",
        "a/b..c",
        "/a/b",
        "a\\b",
        "a/b\nc",
        "http://127.0.0.1/a/b",
        "file:///etc/passwd",
        "a/b?x",
        "a/b#x",
        "a/%2e%2e",
        "@host/b",
        "a/b:c:d",
        "a/ä",
        "a--b/c",
        "a/b-",
        "a" * 97 + "/b",
    ],
)
def test_nothing_but_owner_and_name_is_accepted(model: str) -> None:
    with pytest.raises(InvalidInputError, match="not the name of a model"):
        DownloadRequest(model=model).repo_and_branch()


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("https://huggingface.co/TheBloke/Llama-2-7B-GPTQ", "give TheBloke/Llama-2-7B-GPTQ alone"),
        ("huggingface.co/a/b/tree/main", "give a/b alone"),
        ("https://huggingface.co/a/b/tree/4bit?x=1", "give a/b:4bit alone"),
        ("https://hf.co/a/b/blob/main/config.json", "give a/b alone"),
    ],
)
def test_a_pasted_address_is_answered_with_the_part_to_use(address: str, part: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        DownloadRequest(model=address).repo_and_branch()
    assert part in caught.value.remedy


def test_two_branches_are_refused_with_both_names() -> None:
    with pytest.raises(InvalidInputError, match=r"a/b:x names the branch x, and --branch names y"):
        DownloadRequest(model="a/b:x", branch="y").repo_and_branch()


@pytest.mark.parametrize("branch", ["../main", "a..b", "x y", "x?", "-x", "x/", "x" * 151])
def test_a_hostile_branch_is_refused(branch: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be the name of a branch"):
        DownloadRequest(model="a/b", branch=branch).repo_and_branch()


@pytest.mark.parametrize("pattern", ["(", "[", "*", "a{99999999999}", "x" * 201])
def test_a_bad_pattern_is_one_sentence(pattern: str) -> None:
    with pytest.raises(InvalidInputError, match=r"pattern|regular expression"):
        DownloadRequest(model="a/b", exclude_pattern=pattern).excluded()


def test_the_folder_is_named_after_owner_name_and_branch() -> None:
    assert folder_name("TheBloke/Llama-2-7B-GPTQ", "main") == "TheBloke_Llama-2-7B-GPTQ"
    assert folder_name("a/b", "4bit-32g") == "a_b_4bit-32g"
    assert folder_name("a/b", "refs/pr/1") == "a_b_refs-pr-1"


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "",
        ".",
        "..",
        "a/.ssh/x",
        "C:\\x",
        "a\\b",
        "~/x",
        "con.json",
        "a\x00b",
        "a\nb",
        "x" * 201,
        "/".join("abcdefg"),
        "a/b.",
        "\u202etxt.json",
    ],
)
def test_a_path_that_could_leave_the_folder_is_not_plain(path: str) -> None:
    assert not is_plain_path(path)


# -- the choice -------------------------------------------------------------------------


def test_texts_and_safetensors_are_taken_as_they_are() -> None:
    paths = [*GPTQ, "LICENSE", "README.md", "USE_POLICY.md", "1_Pooling/config.json", "code.py"]
    assert taken(*paths) == paths


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("pytorch_model.bin", "pickles"),
        ("optimizer.PT", "pickles"),
        ("pytorch_model.bin.index.json", "what it lists"),
        ("flax_model.msgpack", "other programs"),
        ("tf_model.h5", "other programs"),
        ("onnx/decoder.onnx", "folder is for other programs"),
        ("onnx/config.json", "folder is for other programs"),
        ("original/params.json", "folder is for other programs"),
        ("checkpoint-500/model.safetensors", "folder is for other programs"),
        ("picture.png", "does not need"),
        (".gitattributes", "hidden"),
        ("../../.bashrc", "hidden"),
        ("../../evil.json", "not allowed"),
        ("config.JSON", "capitals"),
        ("lantern-download.json", "keeps its own"),
        ("consolidated.safetensors", "same weights"),
        ("consolidated-00001-of-00002.safetensors", "same weights"),
        ("model.fp16.safetensors", "same weights"),
        ("model.gguf", "safetensors are taken"),
    ],
)
def test_what_is_left_out_has_a_reason(path: str, reason: str) -> None:
    left_out = dict(choice(*GPTQ, path).left_out)
    assert reason in left_out[path]
    assert len(left_out) == 1


def test_consolidated_weights_are_taken_where_there_are_no_others() -> None:
    assert "consolidated.safetensors" in taken("config.json", "consolidated.safetensors")


def test_of_many_quantizations_one_is_taken_and_named() -> None:
    paths = ["llama-2-7b.Q2_K.gguf", "llama-2-7b.Q4_K_M.gguf", "llama-2-7b.Q8_0.gguf", "README.md"]
    chosen = choice(*paths)
    assert [file.path for file in chosen.files] == ["llama-2-7b.Q4_K_M.gguf", "README.md"]
    assert all(
        reason == "Q4_K_M is taken; --specific-file takes this one" for _, reason in chosen.left_out
    )


def test_without_the_usual_quantization_a_neighbour_is_taken() -> None:
    assert taken("m-IQ2_XXS.gguf", "m-Q8_0.gguf", "m-BF16.gguf") == ["m-Q8_0.gguf"]


def test_the_parts_of_a_split_gguf_stay_together() -> None:
    parts = [f"Q4_K_M/m-Q4_K_M-{part:05}-of-00002.gguf" for part in (1, 2)]
    assert taken(*parts, "Q8_0/m-Q8_0.gguf", "mmproj-m-f16.gguf") == parts
    assert taken(*parts, "m-Q8_0.gguf", specific_file=parts[1]) == parts


def test_a_lora_is_recognised() -> None:
    assert choice("adapter_config.json", "adapter_model.safetensors", "README.md").is_adapter
    assert not choice("adapter_config.json", "model.safetensors").is_adapter
    assert not choice(*GPTQ).is_adapter


def test_texts_alone_need_no_weights() -> None:
    assert taken(*GPTQ, text_only=True) == [path for path in GPTQ if path != "model.safetensors"]
    assert taken("config.json", "pytorch_model.bin", text_only=True) == ["config.json"]


def test_one_file_alone() -> None:
    assert taken(*GPTQ, "pytorch_model.bin", specific_file="config.json") == ["config.json"]


def test_an_unknown_file_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidInputError, match=r"no file 'x.gguf'") as caught:
        choice(*GPTQ, specific_file="x.gguf")
    assert "model.safetensors" in caught.value.remedy


def test_a_pickle_is_not_fetched_even_when_it_is_asked_for() -> None:
    with pytest.raises(DownloadError, match="is a pickle") as caught:
        choice(*GPTQ, "pytorch_model.bin", specific_file="pytorch_model.bin")
    assert caught.value.remedy == "Take model.safetensors instead."


def test_pickles_alone_are_refused_with_the_safe_way() -> None:
    with pytest.raises(DownloadError, match="pickles only") as caught:
        choice("config.json", "pytorch_model.bin")
    assert "safetensors/convert" in caught.value.remedy


def test_a_repository_without_weights_is_refused() -> None:
    with pytest.raises(DownloadError, match="no weights"):
        choice("config.json", "model.onnx")


def test_a_pattern_leaves_files_out() -> None:
    assert taken(*GPTQ, exclude_pattern=r"\.model$|quant") == ["config.json", "model.safetensors"]
    with pytest.raises(DownloadError, match="Nothing of a/b is left"):
        choice(*GPTQ, exclude_pattern=".")
