"""The Kubernetes overlays as kubectl renders them: valid, consistent, hardened, and in agreement with the service."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
from support.fleets.deploy_files import (
    DEPLOY,
    HOW_TO_GET_KUBECTL,
    KUBECTL,
    ROOT,
    alert_rules,
    load_script,
    rendered,
)

from service.redis.link import GROUP, stream_name
from service.settings import Settings

pytestmark = pytest.mark.skipif(KUBECTL is None, reason=HOW_TO_GET_KUBECTL)

OVERLAYS = ("cpu", "gpu")
KUBERNETES = "1.34"
OPERATORS = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
OPTIONAL_SECRET = "avesformer-secrets"


@cache
def objects(overlay: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The overlay's objects by kind and name."""
    return {(document["kind"], document["metadata"]["name"]): document for document in rendered(overlay)}


def of_kind(overlay: str, *kinds: str) -> dict[str, dict[str, Any]]:
    """The overlay's objects of some kinds, by name."""
    return {name: document for (kind, name), document in objects(overlay).items() if kind in kinds}


def workloads(overlay: str) -> dict[str, dict[str, Any]]:
    """Everything that has pods."""
    return of_kind(overlay, "Deployment", "StatefulSet")


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    """A workload's pod specification."""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_keep_to_the_published_schemas(overlay: str) -> None:
    for (kind, _), document in objects(overlay).items():
        if kind not in OPERATORS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_schemas_refuse_what_is_wrong() -> None:
    broken = {**objects("cpu")[("Service", "avesformer-front")], "spec": {"ports": "8000"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_cpu_overlay_needs_no_operator_and_no_gpu() -> None:
    assert not [kind for kind, _ in objects("cpu") if kind in OPERATORS]
    assert "nvidia.com/gpu" not in str(objects("cpu"))
    worker = pod(workloads("cpu")["avesformer-worker"])["containers"][0]
    assert {"name": "AVES_DEVICE", "value": "cpu"} in worker["env"]
    assert worker["image"].endswith("-cpu")


def test_gpu_overlay_gives_each_worker_one_gpu() -> None:
    worker = pod(workloads("gpu")["avesformer-worker"])["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["resources"]["requests"]["memory"], "the patch must not take the base's requests away"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_lives_in_one_restricted_namespace(overlay: str) -> None:
    namespace = objects(overlay)[("Namespace", "avesformer")]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for (kind, _), document in objects(overlay).items():
        assert kind == "Namespace" or document["metadata"]["namespace"] == "avesformer"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_meet_the_restricted_standard(overlay: str) -> None:
    for workload in workloads(overlay).values():
        spec = pod(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods_and_ports_they_mean(overlay: str) -> None:
    templates = [(w["spec"]["template"]["metadata"]["labels"], pod(w)) for w in workloads(overlay).values()]
    for service in of_kind(overlay, "Service").values():
        selector = service["spec"]["selector"].items()
        chosen = [spec for labels, spec in templates if selector <= labels.items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"]: port["containerPort"] for port in chosen[0]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for budget in of_kind(overlay, "PodDisruptionBudget").values():
        selector = budget["spec"]["selector"]["matchLabels"].items()
        assert [labels for labels, _ in templates if selector <= labels.items()]
        assert budget["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_refer_to_exists(overlay: str) -> None:
    maps, claims = of_kind(overlay, "ConfigMap"), of_kind(overlay, "PersistentVolumeClaim")
    for workload in workloads(overlay).values():
        spec = pod(workload)
        own = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in spec.get("volumes", [])} | own
        assert spec["serviceAccountName"] in of_kind(overlay, "ServiceAccount")
        for volume in spec.get("volumes", []):
            assert "persistentVolumeClaim" not in volume or volume["persistentVolumeClaim"]["claimName"] in claims
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            for source in container.get("envFrom", []):
                secret = source.get("secretRef", {})
                assert secret.get("optional") or source["configMapRef"]["name"] in maps


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_exist_and_fit_the_volumes(overlay: str) -> None:
    (settings_map,) = of_kind(overlay, "ConfigMap").values()
    fields = {f"AVES_{field.upper()}" for field in Settings.model_fields}
    assert settings_map["data"].keys() <= fields
    settings = Settings(**{key.removeprefix("AVES_").lower(): value for key, value in settings_map["data"].items()})
    front = pod(workloads(overlay)["avesformer-front"])
    (spool,) = (volume for volume in front["volumes"] if volume["name"] == "spool")
    assert int(spool["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 1024**3 > settings.spool_bytes
    mounts = {mount["mountPath"] for mount in front["containers"][0]["volumeMounts"]}
    assert {"/var/lib/avesformer/spool", settings.blob_url, "/tmp"} <= mounts
    for container in (c for w in workloads(overlay).values() for c in pod(w)["containers"]):
        assert {cell["name"] for cell in container.get("env", [])} <= fields


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_redis_for_chunks_holds_what_all_fronts_may_send(overlay: str) -> None:
    (settings_map,) = of_kind(overlay, "ConfigMap").values()
    fronts = of_kind(overlay, "HorizontalPodAutoscaler")["avesformer-front"]["spec"]["maxReplicas"]
    container = pod(workloads(overlay)["redis-data"])["containers"][0]
    bound = container["args"][container["args"].index("--maxmemory") + 1]
    bound_bytes = int(bound.removesuffix("gb")) * 1024**3
    assert bound_bytes > fronts * int(settings_map["data"]["AVES_REDIS_MAX_BYTES"])
    assert int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024**3 > bound_bytes


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["avesformer-front", "avesformer-worker"])
def test_probes_and_time_to_drain(overlay: str, name: str) -> None:
    spec = pod(workloads(overlay)[name])
    container = spec["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    readiness, liveness = container["readinessProbe"]["httpGet"], container["livenessProbe"]["httpGet"]
    assert (readiness["path"], liveness["path"]) == ("/readyz", "/livez")
    assert readiness["port"] in ports
    assert liveness["port"] in ports
    startup = container["startupProbe"]
    assert startup.get("grpc", {}).get("port") == 50051 or startup["httpGet"]["port"] in ports
    assert spec["terminationGracePeriodSeconds"] > Settings.model_fields["drain_s"].default + 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_network_is_closed_but_for_what_is_named(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    worker = policies["avesformer-worker"]["spec"]
    assert [port["port"] for rule in worker["egress"] for port in rule["ports"]] == [6379]
    for rule in policies["redis"]["spec"]["ingress"]:
        assert "from" in rule, "an empty `from` would open Redis to everybody"


def test_autoscaler_watches_the_streams_that_workers_read() -> None:
    """Fails when the shipped checkpoint changed and `python deploy/kubernetes/update.py FILE` was not run."""
    scaled = of_kind("gpu", "ScaledObject")["avesformer-worker"]["spec"]
    streams = {trigger["metadata"]["stream"] for trigger in scaled["triggers"]}
    watched = next(iter(streams)).split("{")[1].split("}")[0]
    shipped = ROOT / "model" / "weights" / "lite.safetensors"
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest() if shipped.exists() else watched
    assert streams == {stream_name(f"sha256:{digest}", is_interactive=kind) for kind in (True, False)}
    assert {trigger["metadata"]["consumerGroup"] for trigger in scaled["triggers"]} == {GROUP}
    assert all(
        trigger["type"] == "redis-streams" and "lagCount" in trigger["metadata"] for trigger in scaled["triggers"]
    )
    assert scaled["scaleTargetRef"]["name"] in workloads("gpu")
    assert scaled["minReplicaCount"] >= 1, "without a worker fronts refuse work, so none would ever be called back"
    address = scaled["triggers"][0]["metadata"]["address"]
    assert address.split(".")[0] in of_kind("gpu", "Service")


def test_operator_scrapes_both_and_has_the_same_rules() -> None:
    for name, monitor in of_kind("gpu", "ServiceMonitor").items():
        service = of_kind("gpu", "Service")[name]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    rule = of_kind("gpu", "PrometheusRule")["avesformer"]
    assert [one for group in rule["spec"]["groups"] for one in group["rules"]] == alert_rules()


def with_component(folder: Path, overlay: str, component: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of an overlay of one's own, written into `folder`, that adds a component to one of ours."""
    base = DEPLOY / "kubernetes"
    own = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "avesformer",
        "resources": [os.path.relpath(base / "overlays" / overlay, folder.resolve())],
        "components": [os.path.relpath(base / "components" / component, folder.resolve())],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(own))
    found = {(document["kind"], document["metadata"]["name"]): document for document in rendered(folder)}
    for (kind, _), document in found.items():
        if kind not in OPERATORS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_openshift_chooses_the_user_of_every_pod(tmp_path: Path, overlay: str) -> None:
    found = with_component(tmp_path, overlay, "openshift")
    for (kind, name), document in found.items():
        if kind not in ("Deployment", "StatefulSet"):
            continue
        security = pod(document)["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & security.keys(), name
        assert security["runAsNonRoot"] is True
        assert not [c for c in pod(document)["containers"] if "runAsUser" in c["securityContext"]]
    assert found.keys() == objects(overlay).keys()


def test_tracing_adds_the_collector_and_the_way_to_it(tmp_path: Path) -> None:
    with_traces = with_component(tmp_path, "cpu", "tracing")
    (settings_map,) = (document for (kind, _), document in with_traces.items() if kind == "ConfigMap")
    (plain,) = of_kind("cpu", "ConfigMap").values()
    added = {key: value for key, value in settings_map["data"].items() if plain["data"].get(key) != value}
    assert plain["data"].keys() <= settings_map["data"].keys()
    assert added.keys() == {"AVES_OTLP_ENDPOINT"}
    endpoint = urlsplit(Settings(otlp_endpoint=added["AVES_OTLP_ENDPOINT"]).otlp_endpoint)
    (rule,) = with_traces[("NetworkPolicy", "traces")]["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [endpoint.port]
    namespace = rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert endpoint.hostname.split(".")[1] == namespace
    references = {
        source["configMapRef"]["name"]
        for (kind, name), document in with_traces.items()
        if kind == "Deployment" and name.startswith("avesformer-")
        for source in pod(document)["containers"][0]["envFrom"]
        if "configMapRef" in source
    }
    assert references == {settings_map["metadata"]["name"]}


def test_generated_rule_file_is_up_to_date() -> None:
    """Fails when alerts.yml changed and `python deploy/kubernetes/update.py` was not run."""
    script = load_script("kubernetes/update.py")
    assert script.RULE.read_text() == script.prometheus_rule((DEPLOY / "prometheus" / "alerts.yml").read_text())
