"""What NVIDIA's own clients get wrong, under the ids that the tests beside this file name.

Each of these was seen on the wire of the release in `RELEASES`, or read in its source. None may be true of ours.
"""

from tests.adapters.peers.stage import LANGCHAIN, LLAMAINDEX

RELEASES = {
    LANGCHAIN: ("langchain-nvidia-ai-endpoints", "1.5.0"),
    LLAMAINDEX: ("llama-index-embeddings-nvidia", "0.6.0"),
}
"""The distributions of the two clients, `NVIDIAEmbeddings` and `NVIDIAEmbedding`, and the releases meant here."""

FILES = {
    # Those about embeddings, of several releases. test_metadata.py, test_decorators.py and others are about chat.
    LANGCHAIN: {
        *("test_embeddings.py", "test_base_url.py", "test_api_key.py", "test_available_models.py", "test_model.py"),
        *("test_register_model.py", "test_202_polling.py", "test_serialization.py", "test_standard.py"),
        *("test_imports.py", "integration test_embeddings.py"),
    },
    LLAMAINDEX: {
        *("test_embeddings_nvidia.py", "test_api_key.py", "test_base_url.py", "test_mode_switch.py"),
        *("test_truncate.py", "test_available_models.py", "test_integration.py"),
    },
}
"""The files of the clients' own tests. No release brings them along: they are in the clients' repositories."""

WEAKNESSES = {
    # NVIDIAEmbeddings
    "L1": "It never sends modality, embedding_type or user, and ignores arguments by these names.",
    "L2": "It knows no images but data URLs made by hand, and lets the server take a text that holds one for an image.",
    "L3": "It cannot search with an image: embed_query says input_type=query, with which a NIM takes none.",
    "L4": "It takes a timeout and ignores it: it waits 60 seconds.",
    "L5": "It tries nothing again, be the reply 429, 503 or 413.",
    "L6": "It sends the batches of async code one after the other.",
    "L7": "It opens a connection for every request.",
    "L8": "Its errors are bare Exceptions, which hold the status in their text alone.",
    "L9": "Its parser of errors fails with errors of its own on bodies such as null, an array, or a detail of null.",
    "L10": "It gives out fewer vectors than there were texts, without an error, if the server does.",
    "L11": "It takes max_batch_size=-5, and then returns no vectors for any texts, without an error.",
    "L12": "It keeps the last request and its reply.",
    "L13": "It cannot be pickled after one async call, and threads share one place for the last request and reply.",
    "L14": "Its constructor asks the server for its models, if it does not know the one to use, and fails offline.",
    "L15": "It sends 'Bearer **********' to self-hosted servers, if it has no key.",
    "L16": "It reads REQUESTS_CA_BUNDLE in sync code alone and SSL_CERT_FILE in async code alone.",
    "L17": "It reports calls to hosted NIMs to another host, unless told not to.",
    "L18": "It counts no bytes of requests or images, returns no count of tokens, loses a batch by one bad item, and "
    "has no cache.",
    # NVIDIAEmbedding
    "I1": "It sends the queries of sync code as passages.",
    "I2": "It leaves dimensions out in async code.",
    "I3": "It imports openai, which its package does not declare.",
    "I4": "It is no MultiModalEmbedding, and takes no images.",
    "I5": "It fails in a second asyncio.run: 'Event loop is closed'.",
    "I6": "Its fields timeout and max_retries keep their defaults, whatever was passed.",
    "I7": "A pickled copy of it has lost the key, the timeout and the retries that were passed, and works no more for "
    "a hosted NIM.",
    "I8": "It does not know the address of the hosted NIMs with a slash at its end, and so does not ask for a key.",
    "I9": "It takes vectors in the order of the reply and as many as there are, checks the size of a batch by assert, "
    "and sends 'Bearer NO_API_KEY_PROVIDED' if it has no key.",
    "I10": "It puts the endpoint of a hosted model, such as that of NV-Embed-QA, in the place of base_url.",
    "I11": "It sends the batches of sync code one after the other, whatever num_workers is.",
}


def client_of(weakness: str) -> str:
    """Return whose weakness an id is."""
    return {"L": LANGCHAIN, "I": LLAMAINDEX}[weakness[0]]
