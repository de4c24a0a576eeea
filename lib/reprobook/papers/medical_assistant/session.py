"""The Action Manager's control loop: plan, call, check, carry out, observe, again.

A session is suspended while a question waits for the user, and its state is kept in long-term memory after every turn,
so that it can be resumed after an interruption. A call is kept together with what it did and led to, or not at all: an
interrupted one is made again from the plan on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant.environment import Question
from reprobook.papers.medical_assistant.memory import MemoryUnitError, ShortTerm
from reprobook.papers.medical_assistant.scenarios import FINISH, ROLES, Trajectory, Turn
from reprobook.papers.medical_assistant.tools import NAMES, TIMESTAMP_FORMAT, ToolError, parse_call, parse_plan

if TYPE_CHECKING:
    import numpy as np

    from reprobook.papers.medical_assistant.agents import Agent
    from reprobook.papers.medical_assistant.environment import Environment

NOTICE = "A demonstration, no medical advice. In an emergency call your local emergency number."
STATUS = ("running", "waiting", "finished", "stopped")


@dataclass
class Session:
    """One session of a user. ``status``: running; waiting (for :meth:`answer`); finished (the planner ended it);
    stopped (the budget of ``max_turns`` planner turns is spent, or ``max_errors`` turns in a row failed)."""

    agent: Agent
    env: Environment
    user_id: str
    session: str = "1"
    tools: Sequence[str] = NAMES
    max_turns: int = 12
    max_errors: int = 2
    status: str = "running"
    memory: ShortTerm = field(default_factory=ShortTerm)
    _errors: int = 0

    def __post_init__(self) -> None:
        if self.user_id != self.env.user_id:
            raise ReprobookError(f"session of {self.user_id!r}: the environment belongs to {self.env.user_id!r}")

    @property
    def turns(self) -> list[Turn]:
        """The session so far (short-term memory)."""
        return self.memory.turns

    def start(self, message: str) -> str:
        """Begin with the user's message (or an alarm) and go on until the session waits or ends."""
        if self.turns:
            raise ReprobookError("the session has begun; use answer, or open another")
        if not message.strip():
            raise ReprobookError("the message is empty")
        self.env.memory.patient(self.user_id)
        self._say("User", message)
        return self.advance()

    def answer(self, text: str) -> str:
        """The user's answer to the question that waits."""
        if self.status != "waiting":
            raise ReprobookError(f"no question waits: the session is {self.status}")
        self.status = "running"
        try:
            self._say("Observation", repr({"result": {"user": text}}))
        except BaseException:
            self.status = "waiting"
            raise
        return self.advance()

    def advance(self) -> str:
        """Take turns until a question waits or the session ends; returns the status."""
        while self.status == "running":
            self._take_turn()
        return self.status

    @property
    def question(self) -> str | None:
        """The question that waits for the user."""
        return parse_call(self.turns[-1].text)[1]["questions"] if self.status == "waiting" else None

    def _take_turn(self) -> None:
        last = self.turns[-1].role
        if last != "Planner":  # an interruption may have come between plan and call
            if sum(turn.role == "Planner" for turn in self.turns) >= self.max_turns or self._errors >= self.max_errors:
                self._end("stopped")
                return
            plan = self.agent.respond(self.context(), "Planner")
            self._say("Planner", plan)
        try:
            action = parse_plan(self.turns[-1].text)[1]
        except ToolError as error:
            self._fail(error)
            return
        if action == FINISH:
            self._end("finished")
            return
        n, errors = len(self.turns), self._errors
        try:
            self._act()
        except BaseException:  # made again, from the plan on
            del self.turns[n:]
            self.status, self._errors = "running", errors
            raise

    def _act(self) -> None:
        """A call with what it leads to: both are kept, or neither."""
        self._say("Caller", self.agent.respond(self.context(), "Caller"), keep=False)
        n, errors = len(self.turns), self._errors
        try:
            with self.env.all_or_nothing():
                tool, arguments = parse_call(self.turns[-1].text)
                result = self.env.call(tool, arguments)
                self._errors = 0
                if isinstance(result, Question):
                    self.status = "waiting"
                    self._keep()
                else:
                    self._say("Observation", repr({"result": result}))
        except (ToolError, MemoryUnitError) as error:
            del self.turns[n:]  # a result that could not be kept
            self.status, self._errors = "running", errors
            self._fail(error)

    def context(self) -> Trajectory:
        """What an agent sees: user details and clock, tools, the session so far; nothing else of long-term memory."""
        patient = self.env.memory.patient(self.user_id)
        now = self.env.world.now.strftime(TIMESTAMP_FORMAT)
        system = f"user_id {self.user_id}, name {patient['name']}, time {now}"
        return Trajectory("", -1, system, tuple(self.tools), tuple(self.turns))

    def _fail(self, error: Exception) -> None:
        self._errors += 1
        self._say("Observation", repr({"error": str(error)}))

    def _end(self, status: str) -> None:
        self.status = status
        try:
            self._keep()
        except BaseException:
            self.status = "running"
            raise

    def _say(self, role: str, text: str, keep: bool = True) -> None:
        if role not in ROLES:
            raise ReprobookError(f"role {role!r} is unknown")
        self.turns.append(Turn(role, text))
        try:
            if keep:
                self._keep()
        except BaseException:  # a turn that is not stored did not happen
            self.turns.pop()
            raise

    def _keep(self) -> None:
        """Store the state."""
        state = {
            "turns": [[turn.role, turn.text] for turn in self.turns], "status": self.status, "tools": list(self.tools),
            "errors": self._errors, "effects": [list(e) for e in self.env.effects],
            "booked": [list(b) for b in self.env.booked], "outbox": self.env.outbox,
        }  # fmt: skip
        self.env.memory.save_conversation(self.user_id, self.session, state)

    @classmethod
    def resume(cls, agent: Agent, env: Environment, user_id: str, session: str, **options: Any) -> Session:
        """The session as it was stored, with what it had done; a question that waited still waits."""
        state = env.memory.conversation(user_id, session)
        made = cls(agent, env, user_id, session, tools=state["tools"], status=state["status"], **options)
        made._errors = state["errors"]
        made.memory.turns = [Turn(role, text) for role, text in state["turns"]]
        env.effects = [tuple(e) for e in state["effects"]]
        booked = [tuple(b) for b in state["booked"]]
        env.booked = [*booked, *(b for b in env.booked if b not in booked)]  # other sessions may have booked since
        env.outbox = state["outbox"]
        return made


def in_random_order(rng: np.random.Generator) -> tuple[str, ...]:
    """The twelve tools, shuffled as at the beginning of each session in the released application."""
    return tuple(NAMES[i] for i in rng.permutation(len(NAMES)))
