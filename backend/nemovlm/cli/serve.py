"""The command `serve`: a model over HTTP, by the package's own server or by vLLM's."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from nemovlm.cli.console import Debug, Device, Engine, Model, choose_model, command, open_embedder, say
from nemovlm.errors import ConfigurationError

if TYPE_CHECKING:
    from nemovlm.server.vllm_launcher import Launch


@command
def serve(
    context: typer.Context,
    vllm_flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- FLAGS]", help="With --vllm-server: more flags of vLLM's server.")
    ] = None,
    model: Model = None,
    engine: Engine = None,
    device: Device = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 for all the network to see.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What clients call the model; may be given again. Default: its id.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="NEMOVLM_SERVER_API_KEY", help="The key that clients must have. Default: none is wanted."),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Items that may wait; over that, 503.")] = 1024,
    max_body_mb: Annotated[int, typer.Option(min=1, help="MiB of one request; over that, 413.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of one image; over that, 413.")] = 8192 * 16384,
    grace: Annotated[int, typer.Option(min=0, help="Seconds to finish what was accepted when told to stop.")] = 60,
    keep_alive: Annotated[
        int, typer.Option(min=1, help="Seconds for which an idle connection stays open: more than a load balancer's.")
    ] = 75,
    vllm_server: Annotated[
        bool, typer.Option("--vllm-server", help="Start vLLM's own server instead, for engine='vllm-server'.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve a model over HTTP, in the protocol of NVIDIA's embedding NIM."""
    names = tuple(served_model_name or ())
    if api_key is not None and not (api_key := api_key.strip()):  # of a file that was empty, say
        raise ConfigurationError("the key that clients must have is empty; leave --api-key out if none is wanted")
    if vllm_server:
        _refuse_options(context, ("engine", "device", "max_queue", "max_body_mb", "max_pixels", "keep_alive"))
        from nemovlm.server.vllm_launcher import Launch

        flags = tuple(vllm_flags or ())
        _serve_vllm(model, Launch(host=host, port=port, names=names, api_key=api_key, flags=flags, grace=grace))
        return
    if vllm_flags:
        raise ConfigurationError(f"{' '.join(vllm_flags)} would be for --vllm-server, which was not given")
    from pydantic import SecretStr

    from nemovlm.server import ServerOptions
    from nemovlm.server import serve as run

    embedder = open_embedder(model, engine=engine, device=device)
    options = ServerOptions(
        names=names,
        api_key=SecretStr(api_key) if api_key else None,
        max_queue=max_queue,
        max_body_bytes=max_body_mb * 2**20,
        max_pixels=max_pixels,
    )
    run(embedder, options, host=host, port=port, grace=grace, keep_alive=keep_alive, announce=_announce_address)


def _refuse_options(context: typer.Context, names: Iterable[str]) -> None:
    """Raise `ConfigurationError` if one of these options was given, because --vllm-server has no use for it."""
    for name in names:
        if (source := context.get_parameter_source(name)) and source.name != "DEFAULT":
            raise ConfigurationError(f"--{name.replace('_', '-')} makes no sense with --vllm-server")


def _serve_vllm(model: str | None, launch: "Launch") -> None:
    from nemovlm.models.checkpoint import find_checkpoint
    from nemovlm.server.vllm_launcher import serve as launch_server
    from nemovlm.settings import Settings

    settings = Settings.from_kwargs(model=model)
    if settings.remote:
        raise ConfigurationError("--vllm-server starts a server; leave out the base_url, or engine, of one that runs")
    name, why = choose_model(settings)
    checkpoint = find_checkpoint(name or "", settings.revision).with_max_tiles(settings.max_tiles)
    say(f"model {checkpoint.card.id} on vLLM's server: {why}")

    def announce(address: str, prefixes: bool) -> None:
        _announce_address(address)
        if not prefixes:
            say(
                "its route /v2/embed knows no input_type, because the checkpoint has no prefixes for it, in "
                "config.json:task_instructions or config_sentence_transformers.json:prompts"
            )

    launch_server(checkpoint, settings, launch, announce)


def _announce_address(address: str) -> None:
    say(f"listening at {address}/v1; {address}/docs describes the routes; Ctrl-C stops")
