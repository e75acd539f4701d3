"""Names of streams: one per checkpoint and frame size, all names of one in one slot of a cluster."""

from service.redis.link import dead_letter_name, stream_name

DIGEST = "0123456789abcdef" * 4


def test_models_of_other_files_or_frame_sizes_have_streams_of_their_own() -> None:
    models = (f"sha256:{DIGEST}", f"sha256:{DIGEST}@256", f"sha256:{DIGEST}@384", f"sha256:{DIGEST[::-1]}")
    names = [stream_name(model, is_interactive=kind) for model in models for kind in (True, False)]
    assert len(set(names)) == len(names)
    assert names[0] == f"aves:1:chunks:{{{DIGEST[:32]}}}:interactive"
    assert names[3] == f"aves:1:chunks:{{{DIGEST[:32]}@256}}:batch"


def test_names_of_a_model_share_the_part_in_braces() -> None:
    model = f"sha256:{DIGEST}@256"
    names = (stream_name(model, is_interactive=True), stream_name(model, is_interactive=False), dead_letter_name(model))
    assert {name[name.index("{") : name.index("}") + 1] for name in names} == {f"{{{DIGEST[:32]}@256}}"}
