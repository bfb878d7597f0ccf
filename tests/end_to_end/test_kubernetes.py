"""The manifests: held to Kubernetes' schemas, to the image, and to what the daemon serves."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmproxy.config.load import load_config
from llmproxy.config.model import Config
from llmproxy.errors import ConfigError
from llmproxy.metrics.catalogue import CATALOGUE
from tests.daemon import BIN, ROOT, Daemon, free_port, gateway_config
from tests.end_to_end.packages import attempt
from tests.end_to_end.rooted import instructions

FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
MANIFESTS: dict[tuple[str, str], dict[str, Any]] = {
    (one["kind"], one["metadata"]["name"]): one
    for file in FILES
    for one in yaml.safe_load_all(file.read_text())
    if one is not None
}
SET = MANIFESTS["StatefulSet", "llmproxy"]["spec"]
POD = SET["template"]["spec"]
(CONTAINER,) = POD["containers"]
MOUNTS = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
DOCKERFILE = list(instructions(ROOT / "deploy" / "Dockerfile"))
GIB = 1024**3


def validate(*files: Path) -> tuple[bool, str]:
    """Hold files to the newest schemas; unknown keys are wrong. Say whether they are right."""
    ended = attempt(BIN / "kubernetes-validate", "--strict", *files, folder=ROOT)
    return ended.returncode == 0, ended.stdout + ended.stderr


def test_the_manifests_are_manifests() -> None:
    """All of them, by the schemas."""
    right, said = validate(*FILES)
    assert right, said
    for kind, name in MANIFESTS:
        assert f"passed for resource {kind.lower()}/{name} " in said


def test_a_wrong_one_would_be_told(tmp_path: Path) -> None:
    """So the schemas are really looked at."""
    file = tmp_path / "wrong.yaml"
    file.write_text(FILES[-1].read_text().replace("terminationGracePeriodSeconds", "graceSeconds"))
    right, said = validate(file)
    assert not right
    assert "graceSeconds" in said


def config(folder: Path, **secrets: str) -> Config:
    """Load the configuration of the ConfigMap, with secrets in the place of the Secret's."""
    for name, secret in {**MANIFESTS["Secret", "llmproxy"]["stringData"], **secrets}.items():
        (folder / name).write_text(secret)
    (content,) = MANIFESTS["ConfigMap", "llmproxy"]["data"].values()
    file = folder / "llmproxy.yaml"
    file.write_text(content.replace(MOUNTS["secrets"], str(folder)))
    return load_config(str(file), {})


def test_the_configuration(tmp_path: Path) -> None:
    """It is right, and listens where the Service and the probes think."""
    loaded = config(tmp_path, **{"api-key": "sk-of-the-cluster"})
    (port,) = CONTAINER["ports"]
    assert loaded.server.listen == (f":{port['containerPort']}",)
    assert loaded.auth.pipeline[0].static.keys[0].key == "sk-of-the-cluster"
    annotations = SET["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert annotations["prometheus.io/path"] == loaded.metrics.path


def test_there_is_no_key_that_everybody_knows(tmp_path: Path) -> None:
    """As it comes, the daemon says what is missing instead."""
    with pytest.raises(ConfigError, match="key_file") as caught:
        config(tmp_path)
    assert len(caught.value.problems) == 1


def test_streams_may_end_first(tmp_path: Path) -> None:
    """A pod is given the time of its hook, and that of the drain."""
    loaded = config(tmp_path, **{"api-key": "sk-of-the-cluster"})
    word, pause_s = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert word == "sleep"
    unready_s = CONTAINER["readinessProbe"]["periodSeconds"]
    assert int(pause_s) > unready_s
    needed_s = int(pause_s) + loaded.server.drain_timeout
    assert needed_s < POD["terminationGracePeriodSeconds"]


def test_there_is_room(tmp_path: Path) -> None:
    """For the bodies and the spool that the configuration allows."""
    loaded = config(tmp_path, **{"api-key": "sk-of-the-cluster"})
    memory = CONTAINER["resources"]["limits"]["memory"]
    assert int(memory.removesuffix("Gi")) * GIB > loaded.server.max_inflight_bytes
    (claim,) = SET["volumeClaimTemplates"]
    storage = claim["spec"]["resources"]["requests"]["storage"]
    assert int(storage.removesuffix("Gi")) * GIB > loaded.usage.spool_max_size


def test_the_probes_are_answered(tmp_path: Path) -> None:
    """By the daemon, without a key."""
    probes = [CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {CONTAINER["ports"][0]["name"]}
    backends = [{"name": "demo", "url": "demo:"}]
    with Daemon(tmp_path, gateway_config(free_port(), backends)) as daemon:
        for path in (probe["path"] for probe in probes):
            end = time.monotonic() + 30
            while (status := _get(daemon.port, path)) == 503 and time.monotonic() < end:
                time.sleep(0.1)
            assert status == 200, path


def _get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_image_fits() -> None:
    """Its account, its volume, and where it looks for the configuration."""
    (user,) = [rest for name, rest in DOCKERFILE if name == "USER"]
    account = POD["securityContext"]
    assert user == f"{account['runAsUser']}:{account['runAsGroup']}"
    assert account["fsGroup"] == account["runAsGroup"]
    assert ("VOLUME", f'["{MOUNTS["state"]}"]') in DOCKERFILE
    (file,) = MANIFESTS["ConfigMap", "llmproxy"]["data"]
    assert ("CMD", f'["--config", "{MOUNTS["config"]}/{file}"]') in DOCKERFILE


def test_what_refers_to_what() -> None:
    """Selectors, volumes, the headless Service: each name is one that is there."""
    labels = SET["template"]["metadata"]["labels"]
    budget = MANIFESTS["PodDisruptionBudget", "llmproxy"]["spec"]["selector"]["matchLabels"]
    (spread,) = POD["topologySpreadConstraints"]
    for selector in (
        SET["selector"]["matchLabels"],
        MANIFESTS["Service", "llmproxy"]["spec"]["selector"],
        MANIFESTS["Service", "llmproxy-pods"]["spec"]["selector"],
        spread["labelSelector"]["matchLabels"],
        budget,
    ):
        assert selector == labels
    assert ("Service", SET["serviceName"]) in MANIFESTS
    for name in ("llmproxy", "llmproxy-pods"):
        (port,) = MANIFESTS["Service", name]["spec"]["ports"]
        assert port["targetPort"] == CONTAINER["ports"][0]["name"]
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    claims = {claim["metadata"]["name"] for claim in SET["volumeClaimTemplates"]}
    assert set(MOUNTS) == set(volumes) | claims
    assert ("ConfigMap", volumes["config"]["configMap"]["name"]) in MANIFESTS
    assert ("Secret", volumes["secrets"]["secret"]["secretName"]) in MANIFESTS


def test_the_autoscaler() -> None:
    """It counts what the daemon counts, and scales what there is; slower down than a drain."""
    spec = MANIFESTS["HorizontalPodAutoscaler", "llmproxy"]["spec"]
    target = spec["scaleTargetRef"]
    assert MANIFESTS[target["kind"], target["name"]]["apiVersion"] == target["apiVersion"]
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {one.name for one in CATALOGUE}
    (file,) = [file for file in FILES if "HorizontalPodAutoscaler" in file.read_text()]
    assert f"seriesQuery: '{name}{{" in file.read_text()
    assert spec["minReplicas"] == SET["replicas"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 600
