"""What decoder children and the zygote may do: users, namespaces, limits, open files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
from support.components.pools import (
    limits_of,
    make_request,
    soon,
    status_of,
    uploaded,
    zygote_of,
)
from support.inputs.clips import make_clip

from service.media.decoders.pool import DecoderPool

PROCESS = psutil.Process()


def oom_score_of(pid: int) -> int:
    """How much the kernel prefers to end this process when memory runs out, -1000 to 1000."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_children_are_jailed(pool: DecoderPool, tmp_path: Path) -> None:
    features = pool.features()
    assert features["seccomp"] is True
    assert features["zygote_seccomp"] is True
    assert str(features["ffmpeg"]) >= "8.1.2"
    data = make_clip(num_frames=500, gop=10)
    async with (
        uploaded(data, tmp_path) as upload,
        pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader,
    ):
        child = psutil.Process(reader.pid)
        status, limits = await asyncio.to_thread(status_of, child.pid), await asyncio.to_thread(limits_of, child.pid)
        assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
        assert int(status["Seccomp_filters"]) == 3  # the zygote's, the child's, and the narrower one with a job
        assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == [0, 0, 0]
        assert child.num_fds() == 5  # three that lead nowhere, the upload, the socket
        assert limits["Max file size"] == ("0", "0")
        assert limits["Max processes"] == ("0", "0")
        assert limits["Max open files"] == ("64", "64")
        # whatever pictures the media bring: the zygote maps 0.6 GiB, most of it libraries that are never touched
        assert int(limits["Max address space"][1]) < 1 << 30
        names = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in (0, 1, 2)}
        assert names == {os.devnull}
        assert oom_score_of(child.pid) == 1000
        assert child.nice() == min(19, psutil.Process().nice() + 5)


async def test_children_are_walled_off(pool: DecoderPool, tmp_path: Path) -> None:
    """As far as this kernel and this user allow, which `/version` tells."""
    features = pool.features()
    assert features["own_user"] is (os.geteuid() == 0)
    assert not (features["own_user"] and features["user_namespace"])
    data = make_clip(num_frames=500, gop=10)
    request = make_request(fps=None, side_px=224)
    async with (
        uploaded(data, tmp_path) as upload,
        pool.open(upload, request, deadline=soon()) as one,
        pool.open(upload, request, deadline=soon()) as other,
    ):
        if features["own_user"]:
            users = {status_of(pid)["Uid"] for pid in (one.pid, other.pid, os.getpid())}
            groups = {status_of(pid)["Groups"] for pid in (one.pid, other.pid)}
            assert len(users) == 3
            assert groups == {""}
        for name, key in (("user", "user_namespace"), ("pid", "pid_namespace"), ("net", "network_namespace")):
            spaces = {os.readlink(f"/proc/{pid}/ns/{name}") for pid in (one.pid, os.getpid())}
            assert len(spaces) == (2 if features[key] else 1), name
        if features["empty_root"]:
            assert os.listdir(f"/proc/{one.pid}/root") == []
        if features["pid_namespace"]:
            assert len(status_of(one.pid)["NSpid"].split()) == 2


async def test_the_zygote_is_locked_in(pool: DecoderPool) -> None:
    zygote = zygote_of()
    status = await asyncio.to_thread(status_of, zygote.pid)
    assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
    kept = 0b11100000 if pool.features()["own_user"] else 0  # to end children and to change users
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == [kept, kept, 0]
    assert "AVES_TEST_SECRET" not in zygote.environ()
    assert oom_score_of(zygote.pid) >= 500
