"""Flags, environment and settings.yaml: who wins, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from modules.errors import SettingsError
from modules.settings import ROOT, Settings, load_settings, read_launch


def from_yaml(folder: Path, text: str | bytes, *flags: str, **environment: str) -> Settings:
    file = folder / "settings.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_settings(["--settings", str(file), *flags], environment)


def refusal(folder: Path, text: str | bytes) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        from_yaml(folder, text)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


# -- precedence -------------------------------------------------------------------------


def test_defaults_serve_loopback_alone() -> None:
    settings = load_settings([], {})
    assert (settings.host, settings.listen_port) == ("127.0.0.1", 7860)
    assert settings.user_data_dir == ROOT / "user_data"


def test_a_flag_wins_over_the_environment_and_that_over_yaml(tmp_path: Path) -> None:
    yaml = "listen_port: 1001\nmodel: from-yaml\napi_key: from-yaml"
    environment = {"LANTERN_LISTEN_PORT": "1002", "LANTERN_MODEL": "from-environment"}
    settings = from_yaml(tmp_path, yaml, "--listen-port", "1003", **environment)
    assert settings.listen_port == 1003
    assert settings.model == "from-environment"
    assert settings.api_key == "from-yaml"


def test_a_switch_of_the_environment_can_be_turned_off_against_yaml(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "cpu: true").cpu
    assert not from_yaml(tmp_path, "cpu: true", LANTERN_CPU="0").cpu


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_a_flag_a_variable_and_a_key(field: Any, tmp_path: Path) -> None:
    by_type = {
        "bool": "true", "int": "8001", "Path": "some/folder", "str": "word",
        "Bytes": "20GiB", "tuple[Bytes, ...]": "20", "tuple[str, ...]": "word",
    }  # fmt: skip
    choices = field.metadata.get("choices")
    form, example = field.metadata.get("form", ("", ""))
    plain = str(choices[-1]) if choices else by_type[field.type]
    plain = example if form else plain
    flag = ["--" + field.name.replace("_", "-")] + ([] if field.type == "bool" else [plain])
    by_flag = load_settings(flag, {})
    assert by_flag != Settings()
    assert load_settings([], {"LANTERN_" + field.name.upper(): plain}) == by_flag
    assert from_yaml(tmp_path, f"{field.name}: {plain}") == by_flag


@pytest.mark.parametrize(
    ("flags", "host"),
    [
        ([], "127.0.0.1"),
        (["--listen"], "0.0.0.0"),
        (["--listen-host", "192.168.1.5"], "192.168.1.5"),
        (["--listen", "--listen-host", "::1"], "::1"),
    ],
)
def test_the_address_follows_from_the_flags(flags: list[str], host: str) -> None:
    assert load_settings(flags, {}).host == host


def test_yaml_keys_may_be_spelled_like_flags(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "listen-port: 7001").listen_port == 7001


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_changes_nothing(text: str, tmp_path: Path) -> None:
    assert from_yaml(tmp_path, text) == Settings()


def test_underscores_in_flags_are_dashes() -> None:
    assert load_settings(["--load_in_8bit", "--lora=a_b"], {}).load_in_8bit
    assert load_settings(["--lora=a_b"], {}).lora == ("a_b",)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20", 20 * 2**30), ("20GiB", 20 * 2**30), ("20 gib", 20 * 2**30), ("20GB", 20 * 10**9),
        ("3500MiB", 3500 * 2**20), ("1.5", 3 * 2**29), ("512KB", 512_000), ("1TiB", 2**40),
    ],
)  # fmt: skip
def test_memory_is_written_as_text_generation_webui_has_it(text: str, size: int) -> None:
    assert load_settings(["--gpu-memory", text], {}).gpu_memory == (size,)


def test_several_values_are_words_list_or_separated_by_commas(tmp_path: Path) -> None:
    expected = (20 * 2**30, 3500 * 2**20)
    assert load_settings(["--gpu-memory", "20", "3500MiB"], {}).gpu_memory == expected
    assert load_settings([], {"LANTERN_GPU_MEMORY": "20, 3500MiB"}).gpu_memory == expected
    assert from_yaml(tmp_path, "gpu_memory: [20, 3500MiB]").gpu_memory == expected
    assert from_yaml(tmp_path, "lora: one").lora == ("one",)


def test_what_goes_to_the_disk_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    assert Settings(user_data_dir=tmp_path).offload_dir == tmp_path / "offload"
    given = load_settings(["--disk-cache-dir", str(tmp_path)], {})
    assert given.offload_dir == tmp_path / "lantern-offload"


# -- mistakes ---------------------------------------------------------------------------


def test_an_unknown_flag_names_its_nearest_neighbour() -> None:
    with pytest.raises(SettingsError, match=r"--listen-prot=7.*Did you mean --listen-port\?"):
        load_settings(["--listen-prot=7"], {})


def test_an_unknown_key_names_its_nearest_neighbour(tmp_path: Path) -> None:
    assert "Did you mean listen_port?" in str(refusal(tmp_path, "listen_prot: 7"))


def test_a_key_that_is_near_nothing_points_to_the_help(tmp_path: Path) -> None:
    assert "--help" in refusal(tmp_path, "zzzzzz: 1").remedy


@pytest.mark.parametrize("flags", [["--listen-port"], ["--listen-port", "abc"], ["--cpu=1"]])
def test_a_flag_that_does_not_fit_is_one_sentence_and_a_remedy(flags: list[str]) -> None:
    with pytest.raises(SettingsError, match=flags[0].partition("=")[0]) as caught:
        load_settings(flags, {})
    assert caught.value.remedy


@pytest.mark.parametrize("port", ["-1", "65536", "99999999999"])
def test_a_port_out_of_range_is_refused(port: str) -> None:
    with pytest.raises(SettingsError, match=f"--listen-port cannot be {port}"):
        load_settings(["--listen-port", port], {})


@pytest.mark.parametrize(
    "flags",
    [
        "--wbits 5", "--groupsize 0", "--loader exllama", "--ctx-size -1", "--ctx-size 99999999",
        "--gpu-memory x", "--gpu-memory -5", "--gpu-memory 0", "--gpu-memory 999999999TiB",
        "--cpu-memory 5XB", "--gpu-memory 20 lots",
    ],
)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused_with_its_flag(flags: str) -> None:
    with pytest.raises(SettingsError, match=flags.split()[0]) as caught:
        load_settings(flags.split(), {})
    assert caught.value.remedy


def test_flags_that_contradict_each_other_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--load-in-8bit and --load-in-4bit"):
        from_yaml(tmp_path, "load_in_8bit: true", "--load-in-4bit")


@pytest.mark.parametrize(
    "text",
    ["gpu_memory: [[1]]", "gpu_memory: {a: 1}", "cpu_memory: much", "lora: [{a: b}]",
     "lora: [" + "a, " * 100 + "]"],
)  # fmt: skip
def test_values_that_are_no_list_of_plain_ones_are_refused(text: str, tmp_path: Path) -> None:
    assert text.partition(":")[0] in refusal(tmp_path, text).message


@pytest.mark.parametrize("port", ["", "-", "--5", "²", "1e3", "7860.5", "9" * 5000])
def test_a_variable_that_is_no_number_is_refused_by_its_name(port: str) -> None:
    with pytest.raises(SettingsError, match="LANTERN_LISTEN_PORT"):
        load_settings([], {"LANTERN_LISTEN_PORT": port})


def test_a_variable_that_is_no_switch_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"LANTERN_CPU cannot be 'maybe'\. Use true or false\."):
        load_settings([], {"LANTERN_CPU": "maybe"})


@pytest.mark.parametrize("folder", ["", '"a\\0b"', "", "[a]", "{a: b}", "2024-01-01"])
def test_a_folder_that_is_no_path_is_refused(folder: str, tmp_path: Path) -> None:
    assert "model_dir in settings.yaml" in refusal(tmp_path, f"model_dir: {folder}").message


@pytest.mark.parametrize(
    "text",
    [
        "listen_port: [",
        "a: b: c",
        "\tmodel: x",
        b"model: \xff\xfe\xfd",
        "model: \x07",
        "!!python/object/apply:os.system [id]",
        "listen_port: 2024-13-45",
        "listen_port: 0b_",
        "listen_port: " + "9" * 5000,
        "model: " + "[" * 1000,
        "- a\n- b",
        "just words",
    ],
    ids=range(12),
)
def test_broken_yaml_is_one_sentence_and_a_remedy(text: str | bytes, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).message.startswith("settings.yaml")


def test_the_line_of_the_mistake_is_named(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "model: x\nlisten_port: ]\n").message


def test_an_alias_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    lines = ["model:", " - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f" - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    assert "model in settings.yaml" in refusal(tmp_path, "\n".join(lines)).message


def test_a_file_over_64_kb_is_refused(tmp_path: Path) -> None:
    assert "64 KB" in refusal(tmp_path, "# " + "x" * 66_000).message


def test_a_settings_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no file"):
        load_settings(["--settings", str(tmp_path / "none.yaml")], {})


def test_a_settings_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "cannot be read: Permission denied" in refusal(tmp_path, "cpu: true").message


@hypothesis_settings(
    derandomize=True, deadline=None, max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.binary(max_size=60) | st.text(":-[]{}&*!#|>'\"\n ab1,?%@`~", max_size=60))
def test_no_settings_file_causes_anything_but_a_settings_error(
    data: bytes | str, tmp_path: Path
) -> None:
    try:
        from_yaml(tmp_path, data.encode() if isinstance(data, str) else data)
    except SettingsError as error:
        assert error.remedy


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(["--help"], {})
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert all("--" + f.name.replace("_", "-") in shown for f in dataclasses.fields(Settings))


def test_nested_merge_keys_are_no_yaml_of_ours(tmp_path: Path) -> None:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 60)]
    assert "is not valid YAML" in refusal(tmp_path, "\n".join(lines)).message


# -- a server elsewhere -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--loader", "openai"], "needs the address of a server"),
        (["--loader", "gptqmodel", "--api-base", "http://gpu1/v1"], "contradict each other"),
        (["--api-base", "ftp://gpu1/v1"], "http://127.0.0.1:8000/v1"),
        (["--api-base", "http://gpu1/v1?x=1"], "http://127.0.0.1:8000/v1"),
        (["--api-base", "gpu1:8000"], "http://127.0.0.1:8000/v1"),
    ],
)
def test_a_server_needs_an_address_that_leads_to_one(flags: list[str], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags, {})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_login_in_an_address_is_not_repeated_when_it_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(["--api-base", "http://me:s3cret@gpu1/v1#x"], {})
    assert "s3cret" not in str(caught.value)


def test_the_key_of_a_server_may_come_by_the_environment() -> None:
    environment = {"LANTERN_API_BASE_KEY": "sk-1"}
    settings = load_settings(["--loader", "openai", "--api-base", "https://gpu1"], environment)
    assert (settings.api_base, settings.api_base_key) == ("https://gpu1", "sk-1")


# -- extensions --------------------------------------------------------------------------


def test_the_params_of_extensions_are_keys_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "extensions" / "long_replies").mkdir(parents=True)
    file = tmp_path / "settings.yaml"
    file.write_text("long_replies-min_length: 5\nextensions: [a, b]\n")
    flags = ["--settings", str(file), "--extension-dir", str(tmp_path / "extensions")]
    settings, origins = read_launch([*flags, "--extensions", "c", "a"], {})
    assert origins.extension_params == {"long_replies-min_length": 5}
    assert (settings.extensions, origins.extensions) == (("c", "a", "b"), ("c", "a"))


@pytest.mark.parametrize("key", ["no_such-key", "long_replies", "-key", "../long_replies-key"])
def test_a_key_of_no_extension_is_refused(key: str, tmp_path: Path) -> None:
    (tmp_path / "extensions" / "long_replies").mkdir(parents=True)
    yaml = f"extension_dir: {tmp_path / 'extensions'}\n{key}: 1\n"
    assert "unknown key" in refusal(tmp_path, yaml).message
