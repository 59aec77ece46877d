"""What `doctor` asks Redis for: every command of the scripts, in a form that Redis takes."""

from cluster.client.doctor import rights
from tests.integration.core import Core


async def test_redis_takes_every_command_in_the_form_in_which_it_is_asked_for(core: Core) -> None:
    transaction = core.redis.pipeline(transaction=True)
    for command in rights.commands("p:", ["feed"]):
        transaction.execute_command(*command)
    await transaction.execute(raise_on_error=False)  # one of another form is refused when it is queued, and all with it
