"""Read the upload of a job back from the blob store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.domain.job import Job
from service.media.spool import Spool
from service.media.upload import Upload
from service.storage.blobs import Blobs


@asynccontextmanager
async def stored_upload(job: Job, blobs: Blobs, spool: Spool, *, max_bytes: int) -> AsyncIterator[Upload]:
    """Yield the complete upload of a job, copied to the spool; it is freed when the block ends.

    Raises:
        ServiceError: `internal` if it is missing, `backend_down`, `storage_full`.
    """
    upload = await spool.open_upload(max_bytes=max_bytes)
    try:
        async for piece in blobs.read(job.upload_name()):
            await upload.write(piece)
        upload.finish()
        yield upload
    finally:
        upload.close()
