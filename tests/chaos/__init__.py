"""`make chaos`: ingestions under fire, against a real S3 server, and a count of what was lost, doubled or changed (nothing).

    world.py      the source objects, night after night, and what a corpus must hold of them
    proxy.py      between a pass and the server: which request meets which fault, by seed
    passes.py     one `palimpsest ingest` in a process of its own
    verdict.py    a corpus under fire against the world, and against an undisturbed one
    nights.py     episodes of nights: passes that are killed and starved until the night is published
    cluster.py    the same through Ray on two nodes, whose workers and second node are killed
    __main__.py   the command

It lies beside the tests and not in `palimpsest bench`, because it needs the S3 server and the proxy, which are no part of the
package, and because a command that kills its own workers has no place in what people install.
"""
