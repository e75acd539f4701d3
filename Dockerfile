# Two images from one file:
#   docker build --target front  -t avesformer-front .    REST and gRPC, decoding; no torch
#   docker build --target worker -t avesformer-worker .   the model on a CUDA GPU; can also `serve` alone
#   --build-arg TORCH=cpu makes a worker without CUDA libraries, about a tenth of the size.
# Every version is locked with hashes in deploy/locks (deploy/locks/update.py writes them).
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# ---- our own wheel, and the interpreter's environment of each image; nothing of this stage ships but those
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
COPY deploy/locks/ /src/deploy/locks/
# --without-pip: the images carry no installer
RUN pip install --no-deps --require-hashes -r /src/deploy/locks/build.txt \
 && python -m venv --without-pip /opt/avesformer \
 && pip --python /opt/avesformer/bin/python install --no-deps --require-hashes -r /src/deploy/locks/front.txt
COPY pyproject.toml README.md LICENSE /src/
COPY deploy/wheel/ /src/deploy/wheel/
COPY service/ /src/service/
COPY model/ /src/model/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src

FROM build AS build-front
RUN pip --python /opt/avesformer/bin/python install --no-deps /dist/*.whl

FROM build AS build-worker
ARG TORCH=cuda
RUN if [ "$TORCH" = cpu ]; then \
      pip --python /opt/avesformer/bin/python install --no-deps --require-hashes \
        --extra-index-url https://download.pytorch.org/whl/cpu -r /src/deploy/locks/torch-cpu.txt; \
    else \
      pip --python /opt/avesformer/bin/python install --no-deps --require-hashes -r /src/deploy/locks/torch-cuda.txt; \
    fi \
 && pip --python /opt/avesformer/bin/python install --no-deps --require-hashes -r /src/deploy/locks/model.txt \
 && pip --python /opt/avesformer/bin/python install --no-deps /dist/*.whl

# ---- what both images share
FROM ${PYTHON_IMAGE} AS runtime
# The base has no bytecode of the standard library, and nothing may write it later: without compileall every start of
# the service, and every health check, would compile again what it imports.
RUN pip uninstall --yes --root-user-action=ignore pip setuptools wheel \
 && python -m compileall -q -x '/(test|tests)/' "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && groupadd --gid 10001 avesformer \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin avesformer \
 && install --directory --owner=10001 --group=0 --mode=0770 \
      /var/lib/avesformer /var/lib/avesformer/spool /var/lib/avesformer/state /var/lib/avesformer/blobs
# Group 0 may write, because some clusters (OpenShift) start the container under a random uid with gid 0.
# The root may be read-only: everything is written under /var/lib/avesformer and /tmp.
ENV PATH=/opt/avesformer/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp HF_HUB_OFFLINE=1 \
    AVES_HOST=0.0.0.0 \
    AVES_SPOOL_DIR=/var/lib/avesformer/spool \
    AVES_STATE_DIR=/var/lib/avesformer/state
# Two libraries in the wheel of PyAV are under the GPL, so it covers what an image conveys; deploy/sbom.py lists every part.
LABEL org.opencontainers.image.title="avesformer" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later" \
      avesformer.gpl-parts="x264 and x265 in the av wheel (PyAV)" \
      avesformer.licence-texts="/opt/avesformer/lib/python3.11/site-packages/*.dist-info"
COPY --chmod=0644 deploy/healthcheck.py /opt/healthcheck.py
# Without a mount these become anonymous volumes, so uploads and answers never land in the container's own layer.
VOLUME ["/var/lib/avesformer/spool", "/var/lib/avesformer/state", "/var/lib/avesformer/blobs"]
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["avesformer"]

FROM runtime AS front
COPY --from=build-front /opt/avesformer /opt/avesformer
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/healthcheck.py"]
CMD ["serve"]

FROM runtime AS worker
COPY --from=build-worker /opt/avesformer /opt/avesformer
# What the NVIDIA container toolkit hands in where a GPU is given to the container; without one they do nothing.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8001 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 CMD ["python", "/opt/healthcheck.py"]
CMD ["worker"]
