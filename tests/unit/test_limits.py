"""Every limit is named in one module, and each has a test that exceeds it."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import bodies
from support.one_loop import QUICK, cluster
from wool import DispatchTimeout, LocalDiscovery, limits
from wool.discovery.sightings import Record, Sightings
from wool.limits import DEFAULT_LIMITS, Limits
from wool.worker.launch import WorkerProcess
from wool.worker.logs import LineWriter

TESTS = Path(__file__).parents[1]

EXCEEDED = {
    "dispatch_timeout_seconds": "unit/test_limits.py::test_nobody_who_accepts_in_time_is_a_dispatch_timeout",
    "patience_seconds": "unit/test_proxy.py::test_a_worker_that_is_slow_to_connect_keeps_nobody_from_another",
    "cancel_grace_seconds": "unit/test_proxy.py::test_a_cancelled_caller_is_released_within_the_grace",
    "map_concurrency": "unit/test_mapping.py::test_by_default_the_named_limit_bounds_it",
    "stall_seconds": "unit/test_deadlines.py::test_after_a_stall_what_has_arrived_is_read_before_anything_fires",
    "stall_settle_seconds": "unit/test_deadlines.py::test_after_a_stall_what_has_arrived_is_read_before_anything_fires",
    "handshake_seconds": "integration/test_hostile_strangers.py"
    "::test_who_is_slow_is_let_go_and_others_are_served_and_the_log_says_so",
    "handshakes": "unit/worker/test_service.py"
    "::test_of_more_handshakes_than_there_is_room_for_the_oldest_is_given_up_and_others_are_served",
    "connections": "integration/test_hostile_strangers.py"
    "::test_more_connections_than_there_is_room_for_leave_the_worker_its_descriptors",
    "streams": "integration/test_hostile_strangers.py"
    "::test_a_connection_has_so_many_streams_and_one_more_is_refused_until_there_is_room",
    "refusals": "unit/test_refusals.py::test_a_flood_without_end_is_a_bounded_number_of_lines",
    "refusal_seconds": "unit/test_refusals.py::test_more_are_counted_and_summed_up_when_the_time_is_over",
    "unread_answers": "unit/worker/test_service.py"
    "::test_a_caller_that_offers_on_and_on_and_reads_nothing_loses_its_session",
    "close_seconds": "unit/transport/test_conformance.py"
    "::test_close_is_bounded_although_the_other_end_neither_reads_nor_closes",
    "reconnect_first_seconds": "unit/test_proxy.py::test_the_backoff_grows_and_is_bounded",
    "reconnect_most_seconds": "unit/test_proxy.py::test_the_backoff_grows_and_is_bounded",
    "connects": "unit/test_proxy.py::test_while_a_worker_is_slow_to_connect_so_many_others_are_asked_as_the_limit_says",
    "address_retry_seconds": "unit/test_by_address.py::test_a_refused_address_that_is_withdrawn_is_not_asked_again",
    "sessions": "unit/test_proxy.py::test_connections_are_bounded_and_calls_spread_evenly_over_them",
    "sessions_most": "unit/test_proxy.py"
    "::test_who_has_more_calls_under_way_uses_more_workers_within_a_bound_and_fewer_again_later",
    "sessions_idle_seconds": "unit/test_proxy.py"
    "::test_who_has_more_calls_under_way_uses_more_workers_within_a_bound_and_fewer_again_later",
    "window_tasks": "unit/test_proxy.py::test_a_full_window_is_waiting_at_the_caller_and_never_rejection",
    "window_bytes": "unit/test_proxy.py::test_a_payload_larger_than_the_window_goes_alone",
    "definitions": "unit/test_proxy.py::test_definitions_are_bounded_on_both_sides_and_forgotten_ones_are_sent_again",
    "definition_bytes": "unit/test_proxy.py::test_definitions_are_bounded_in_bytes",
    "cancels": "unit/worker/test_service.py::test_more_cancels_of_a_step_on_its_way_than_are_kept_end_the_session",
    "nested_idle_seconds": "integration/test_pool_modes.py"
    "::test_workers_that_nobody_uses_let_go_of_each_other_and_find_each_other_again",
    "pool_description_bytes": "unit/worker/test_service.py::test_a_pool_description_over_the_limit_is_refused",
    "payload_bytes": "integration/test_outcomes.py::test_the_arguments_are_over_the_limit",
    "context_bytes": "unit/test_variables.py::test_a_limit_bounds_what_travels_and_names_the_largest",
    "inline_bytes": "unit/protocol/test_flow.py"
    "::test_a_byte_more_than_travels_inline_is_announced_and_travels_in_chunks",
    "chunk_bytes": "unit/protocol/test_flow.py::test_a_byte_more_than_a_chunk_holds_is_a_second_chunk",
    "credit_bytes": "unit/test_proxy.py::test_peers_whose_limits_differ_still_talk",
    "task_events": "unit/test_events.py::test_what_was_left_out_on_the_way_is_counted",
    "packet_bytes": "unit/protocol/test_flow.py"
    "::test_more_than_a_packet_holds_leaves_in_several_messages_of_about_its_size",
    "message_bytes": "unit/transport/test_conformance.py::test_a_message_above_the_limit_is_refused_and_harms_nothing",
    "text_characters": "unit/test_session.py::test_a_goodbye_with_a_long_reason_is_cut",
    "traceback_bytes": "unit/test_failure.py::test_a_long_traceback_loses_its_oldest_frames_but_not_its_origin",
    "exceptions": "unit/test_failure.py::test_a_long_chain_keeps_its_nearest_end_and_says_what_is_missing",
    "unix_keepalive_seconds": "integration/test_liveness.py::test_a_frozen_worker_is_lost_in_time",
    "unix_ping_timeout_seconds": "integration/test_liveness.py::test_a_frozen_worker_is_lost_in_time",
    "unix_silence_seconds": "unit/transport/test_servicer.py"
    "::test_a_stream_whose_pulse_breaks_is_lost_if_nothing_arrives",
    "tcp_keepalive_seconds": "integration/test_liveness.py::test_a_frozen_worker_is_lost_in_time",
    "tcp_ping_timeout_seconds": "integration/test_liveness.py::test_a_frozen_worker_is_lost_in_time",
    "unix_lookahead_bytes": "unit/transport/test_memory.py::test_room_for_more_passes_through_carry_too",
    "probe_connections": "integration/test_health.py"
    "::test_more_connections_to_the_health_port_than_there_is_room_for_are_closed_at_once",
    "probe_connection_seconds": "integration/test_health.py"
    "::test_nobody_keeps_a_connection_to_the_health_port_for_long_and_probes_are_answered_meanwhile",
    "probe_bytes": "integration/test_health.py::test_a_question_longer_than_a_probe_has_is_not_read",
    "metrics_answer_seconds": "unit/cli/test_metrics.py::test_an_event_loop_that_does_not_answer_is_no_success",
    "metrics_connections": "unit/cli/test_metrics.py"
    "::test_nobody_keeps_a_connection_for_long_nor_more_than_there_is_room_for",
    "metrics_connection_seconds": "unit/cli/test_metrics.py::test_who_sends_a_byte_now_and_then_is_let_go_as_well",
    "metrics_request_bytes": "unit/cli/test_metrics.py"
    "::test_a_question_of_more_bytes_than_a_request_may_have_gets_no_answer",
    "worker_start_seconds": "integration/test_pool_lifecycle.py"
    "::test_a_worker_that_is_not_ready_in_time_fails_the_entry",
    "drain_seconds": "integration/test_pool_lifecycle.py::test_what_outlasts_the_drain_time_is_interrupted",
    "stop_seconds": "integration/test_launch.py::test_a_worker_that_does_not_exit_is_killed",
    "output_tail_bytes": "integration/test_launch.py::test_only_the_end_of_the_output_is_kept",
    "log_lines": "unit/test_limits.py::test_more_lines_than_the_log_holds_are_dropped_and_counted",
    "output_line_bytes": "integration/test_launch.py::test_output_is_forwarded_by_whole_lines",
    "control_message_bytes": "unit/worker/test_channel.py::test_a_message_that_is_too_long_is_neither_said_nor_read",
    "credentials_seconds": "unit/worker/test_renewal.py::test_it_is_asked_as_often_as_the_limit_says",
    "exit_poll_first_seconds": "unit/test_limits.py::test_a_worker_is_looked_for_soon_and_then_more_rarely",
    "exit_poll_most_seconds": "unit/test_limits.py::test_a_worker_is_looked_for_soon_and_then_more_rarely",
    "local_workers": "integration/test_local_discovery.py"
    "::test_a_full_namespace_says_so_and_takes_the_place_of_the_dead",
    "record_bytes": "unit/discovery/test_base.py::test_metadata_too_large_for_a_record_is_refused_with_the_limit",
    "discovery_poll_seconds": "unit/test_limits.py::test_a_namespace_is_looked_at_as_often_as_the_limit_says",
    "discovery_lease_seconds": "integration/test_local_discovery.py::test_a_stopped_publisher_is_not_dead",
    "memory_look_seconds": "integration/test_hygiene.py"
    "::test_a_worker_that_leaks_is_replaced_while_calls_go_on_and_none_fails",
    "handover_seconds": "unit/worker/test_succession.py"
    "::test_the_old_worker_takes_tasks_until_its_callers_may_have_heard_of_the_new_one",
    "successor_retry_seconds": "unit/worker/test_succession.py"
    "::test_without_a_successor_the_old_worker_goes_on_and_it_is_tried_again",
    "retire_seconds": "integration/test_hygiene.py::test_what_runs_longer_than_a_replaced_worker_may_is_interrupted",
    "publish_seconds": "integration/test_pool_modes.py"
    "::test_a_publisher_that_hangs_leaks_no_worker_and_holds_nobody_up_for_long",
    "first_look_seconds": "unit/test_lookout.py::test_the_first_moments_end_though_somebody_is_looked_for_still",
    "addresses": "integration/test_dns_discovery.py"
    "::test_an_answer_with_more_addresses_than_are_used_is_cut_and_told_once",
    "lookup_seconds": "unit/discovery/test_static.py"
    "::test_a_name_that_hangs_takes_one_thread_however_often_it_is_tried",
    "lookup_least_seconds": "unit/discovery/test_lookups.py::test_an_answer_is_used_for_its_time_to_live_within_bounds",
    "lookup_most_seconds": "unit/discovery/test_lookups.py::test_an_answer_is_used_for_its_time_to_live_within_bounds",
    "lookup_retry_first_seconds": "unit/discovery/test_lookups.py::test_who_cannot_be_asked_about_is_not_gone",
    "lookup_retry_most_seconds": "unit/discovery/test_lookups.py::test_who_cannot_be_asked_about_is_not_gone",
    "lookup_denied_seconds": "integration/test_dns_discovery.py"
    "::test_a_name_that_does_not_exist_yet_is_found_when_its_denial_is_over",
    "lan_workers": "unit/discovery/test_sightings.py::test_no_more_workers_are_kept_than_the_limit_and_the_first_stay",
    "lan_look_seconds": "integration/test_lan_discovery.py"
    "::test_a_call_that_nobody_takes_waits_until_everybody_was_heard",
    "lan_ttl_seconds": "integration/test_lan_discovery.py"
    "::test_a_host_that_vanished_without_a_word_is_dropped_when_its_time_is_over",
    "lan_browse_seconds": "unit/discovery/test_sightings.py"
    "::test_a_lie_hides_a_worker_no_longer_than_until_everybody_is_asked",
    "lan_retry_first_seconds": "unit/discovery/test_sightings.py"
    "::test_of_two_workers_with_one_uid_what_the_one_says_is_not_taken_for_the_other",
    "lan_retry_most_seconds": "unit/discovery/test_sightings.py"
    "::test_a_lie_hides_a_worker_no_longer_than_until_everybody_is_asked",
    "lan_open_seconds": "unit/test_limits.py::test_goodbyes_that_cannot_be_said_are_given_up",
    "static_lookup_seconds": "unit/discovery/test_static.py"
    "::test_a_name_that_hangs_takes_one_thread_however_often_it_is_tried",
    "MOST_PARTS": "unit/protocol/test_frames.py::test_what_no_peer_may_say_is_a_protocol_error_that_says_why",
    "MOST_FRAMES": "unit/protocol/test_runs.py::test_a_run_longer_than_the_limit_breaks_the_protocol",
    "MOST_HANDSHAKE_BYTES": "unit/protocol/test_handshake.py::test_a_message_too_long_is_not_parsed",
    "MOST_CREDENTIAL_BYTES": "unit/test_credentials.py::test_a_file_larger_than_any_credentials_is_not_read_to_its_end",
    "MOST_CHARACTERS": "unit/test_harmless.py::test_what_is_too_long_is_cut_and_says_so",
    "MOST_UID_CHARACTERS": "unit/protocol/test_handshake.py::test_a_callers_ids_neither_write_into_the_log_nor_fill_it",
    "MOST_TRACE_STATE_BYTES": "unit/protocol/test_tracing.py"
    "::test_a_malformed_tracestate_is_left_out_and_the_parent_is_kept",
    "MOST_TRACE_MEMBERS": "unit/protocol/test_tracing.py"
    "::test_a_malformed_tracestate_is_left_out_and_the_parent_is_kept",
    "MOST_REASON_CHARACTERS": "unit/worker/test_admission.py::test_what_a_hook_gives_as_a_reason_cannot_forge_lines",
    "MOST_LABEL_CHARACTERS": "unit/test_failure.py::test_a_name_that_no_person_reads_to_its_end_is_cut",
    "MOST_FRAMES_SHOWN": "unit/test_failure.py"
    "::test_of_a_long_traceback_chain_and_group_the_text_has_as_much_as_a_person_reads",
    "MOST_LINKS_SHOWN": "unit/test_failure.py"
    "::test_of_a_long_traceback_chain_and_group_the_text_has_as_much_as_a_person_reads",
    "MOST_BUFFERS": "unit/test_serialization.py::test_of_more_buffers_than_travel_beside_a_value_the_others_go_in_band",
    "KNOWN_DEFINITIONS": "unit/test_serialization.py::test_what_is_remembered_is_bounded",
    "MOST_WRAPPERS": "unit/test_serialization.py::test_more_wrappers_than_anybody_writes_are_not_taken_off",
    "WIND_UP_SECONDS": "unit/test_bridge.py"
    "::test_a_task_that_does_not_end_with_its_loop_is_waited_for_a_while_and_no_longer",
    "lookups": "unit/discovery/test_dns.py::test_no_more_hosts_of_an_answer_are_asked_for_at_once_than_the_limit",
    "asked": "unit/cli/test_ps.py::test_no_more_workers_are_asked_at_once_than_the_limit",
    "MOST_GONE": "unit/test_proxy.py::test_who_departed_is_remembered_in_bounds",
    "MOST_TOLD": "unit/test_admission.py::test_of_the_workers_that_are_not_used_an_error_names_some",
    "MOST_NAMED": "unit/test_proxy.py::test_a_load_balancer_may_repeat_itself_but_not_for_ever",
    "LOCK_RETRY_SECONDS": "integration/test_local_discovery.py"
    "::test_the_gate_is_waited_for_by_who_joins_but_not_for_ever",
    "LOCK_ATTEMPTS": "integration/test_local_discovery.py::test_the_gate_is_waited_for_by_who_joins_but_not_for_ever",
    "REMOVE_ATTEMPTS": "unit/test_runtime_directory.py"
    "::test_a_directory_that_does_not_go_away_is_removed_again_so_often_and_then_told_of",
    "LOOK_ATTEMPTS": "integration/test_local_discovery.py"
    "::test_who_is_overtaken_again_and_again_by_writers_looks_later",
    "MOST_NAMESPACE_CHARACTERS": "integration/test_local_discovery.py"
    "::test_a_name_that_is_empty_or_too_long_is_refused",
    "MOST_SLOTS": "unit/discovery/test_table.py::test_dimensions_are_bounded",
    "MOST_SLOT_BYTES": "unit/discovery/test_table.py::test_dimensions_are_bounded",
    "MOST_LIFE_BYTES": "unit/test_lives.py::test_of_a_lease_no_more_is_read_than_a_life_takes",
    "MOST_WORKERS": "unit/cli/test_settings.py::test_what_makes_no_sense_together_is_named",
    "MOST_LAST_LINES": "unit/cli/test_last_words.py"
    "::test_of_what_a_worker_prints_the_end_is_kept_and_of_a_long_line_its_start",
    "MOST_LAST_LINE_BYTES": "unit/cli/test_last_words.py"
    "::test_of_what_a_worker_prints_the_end_is_kept_and_of_a_long_line_its_start",
    "MOST_DAYS": "unit/cli/test_certs.py::test_days_are_whole_and_bounded",
    "MOST_ADDRESSES": "unit/test_limits.py::test_more_addresses_of_one_worker_than_a_host_has_are_not_kept",
}
"""The test that makes the limit small, or the input large, and looks what happens."""


class File:
    """The tests of a file, and what each of them speaks of: in itself, and in what it uses of the same file."""

    def __init__(self, path: str) -> None:
        self.named: dict[str, list[ast.stmt]] = {}
        self.automatic: list[ast.stmt] = []
        for node in ast.parse((TESTS / path).read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.named.setdefault(node.name, []).append(node)
                if any("autouse" in ast.unparse(each) for each in node.decorator_list):
                    self.automatic.append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
                for name in {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}:
                    # Not what is listed here of all limits.
                    if name != "EXCEEDED" and isinstance(node, ast.Assign | ast.AnnAssign):
                        self.named.setdefault(name, []).append(node)

    def words(self, test: str) -> set[str]:
        """Return the names, the attributes, the keywords and the words of strings that a test has; no comments."""
        words: set[str] = set()
        todo, seen = [*self.named[test], *self.automatic], set[int]()
        while todo:
            node = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            found = set(_words(node))
            words |= found
            todo += [each for name in found for each in self.named.get(name, ())]
        return words


def _words(node: ast.AST) -> Iterator[str]:
    docstrings = {id(each.value) for each in ast.walk(node) if isinstance(each, ast.Expr)}
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if id(each) not in docstrings:
                yield from re.findall(r"\w+", text)
            case _:
                pass


file_of = functools.cache(File)


def names() -> list[str]:
    constants = [name for name, value in vars(limits).items() if name.isupper() and isinstance(value, (int, float))]
    return [field.name for field in dataclasses.fields(Limits)] + [name for name in constants if name not in UNITS]


UNITS = {"KIB", "MIB", "GIB"}


@pytest.mark.parametrize("name", names())
def test_every_limit_has_a_test_that_exceeds_it(name: str) -> None:
    assert name in EXCEEDED, f"{name} has no test that exceeds it: write one, and name it here"
    path, _, test = EXCEEDED[name].partition("::")
    assert test in file_of(path).named, f"{EXCEEDED[name]} is no test"
    # Those of keepalive are measured as they are, since gRPC takes none below 1 s.
    if name not in KEEPALIVE:
        assert name in file_of(path).words(test), f"{EXCEEDED[name]} says nothing of {name}"


def test_a_limit_that_is_named_elsewhere_in_the_file_is_not_one_that_a_test_exceeds() -> None:
    here = file_of("unit/test_limits.py")
    test = "test_goodbyes_that_cannot_be_said_are_given_up"
    assert "lan_open_seconds" in here.words(test)
    assert "lan_ttl_seconds" in Path(__file__).read_text()
    assert "lan_ttl_seconds" not in here.words(test), "nor in this comment: local_workers"
    assert "local_workers" not in here.words(test)
    # What a test uses counts, and so does a fixture that nobody asks for.
    strangers = file_of("integration/test_hostile_strangers.py")
    words = strangers.words(EXCEEDED["handshake_seconds"].partition("::")[2])
    assert "handshake_seconds" in words
    assert "window_tasks" not in words


NO_LIMITS = {
    "a format, of wool or of others": {
        "authority.MOST_NAME",
        "credentials.SECRET_BYTES",
        "definition.DIGEST_BYTES",
        "discovery.lookups._NAME_CHARACTERS",
        "discovery.mdns._POINTER_SECONDS",
        "discovery.records._PIECE_BYTES",
        "discovery.table.HEADER_BYTES",
        "discovery.table.KEY_BYTES",
        "discovery.table.LEASE_BYTES",
        "links._LOT_BYTES",
        "pool.SECRET_BYTES",
        "protocol.codec._MOST_NUMBER",
        "protocol.frames.DIGEST_BYTES",
        "protocol.frames.TASK_BYTES",
        "protocol.handshake.NONCE_BYTES",
        "runtime_directory.KEY_BYTES",
        "runtime_directory.SOCKET_NAME_BYTES",
        "runtime_directory.SOCKET_PATH_BYTES",
        "serialization._BYTES",
        "transport.grpc_options.UNIX_PATH_BYTES",
        "transport.grpc_pulse._NAME_BYTES",
        "transport.onlookers._ADDRESS_BYTES",
        "worker.channel._BYTES",
        "worker.logs.MARK_BYTES",
        "worker.logs._TOGETHER_BYTES",
        "worker.service.SESSION_BYTES",
    },
    "reckoned with, and follows from others": {
        "cli.worker._ADDRESS_CHARACTERS",
        "discovery.namespace.GATE_SECONDS",
        "failure.VALUE_BYTES",
        "protocol.flow.CHARACTER_BYTES",
        "protocol.flow.FRAME_OVERHEAD_BYTES",
        "protocol.flow.SIZE_OVERHEAD_BYTES",
        "remote_traceback.FRAME_BYTES",
    },
    "from where on another way is faster": {
        "buffers.HUGE_FROM_BYTES",
        "definition.PROVEN_BLOB_BYTES",
        "protocol.codec.LONG_MESSAGE_BYTES",
        "serialization.LARGE_BYTES",
    },
    "a pace: how much in one turn, and how often": {
        "bridge.HOLD_SECONDS",
        "bridge.QUIET_SECONDS",
        "cli.metrics.PAUSE_SECONDS",
        "cli.ps.WAIT_SECONDS",
        "discovery.lan._TOLD_AGAIN_SECONDS",
        "discovery.mdns._RECEIVE_BYTES",
        "discovery.sightings._BROWSE_AT_SECONDS",
        "events.IDLE_SECONDS",
        "mapping._READ_AT_ONCE",
        "lookout._LOOKING_SECONDS",
        "transport.grpc_health.STOP_SECONDS",
        "worker.channel._READ_BYTES",
        "worker.lag.LOOK_SECONDS",
        "worker.lag.WINDOW_SECONDS",
        "worker.launch._READ_BYTES",
    },
    "what a table of the terminal shows": {"cli.ps.ADDRESS_CHARACTERS"},
    "how deep a search goes that another way follows": {"definition._FROZEN_DEPTH"},
}
"""Numbers of other modules whose names sound like a limit's, and what they are."""


def test_a_limit_stands_in_the_module_of_limits_and_nowhere_else() -> None:
    sounds = re.compile(r"(^|_)(MOST|MAX|LIMIT)(_|$)|_(BYTES|SECONDS|CHARACTERS|ATTEMPTS|AT_ONCE|DEPTH|STEPS|LINES)$")
    source = Path(limits.__file__).parent
    found: set[str] = set()
    for path in source.rglob("*.py"):
        module = ".".join(path.relative_to(source).with_suffix("").parts)
        if module in ("limits", "protocol.wire_pb2") or module.startswith("sim."):
            continue
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else list[ast.expr]()
            targets += [node.target] if isinstance(node, ast.AnnAssign) else []
            names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            found |= {f"{module}.{name}" for name in names if name.isupper() and sounds.search(name)}
    assert found == set().union(*NO_LIMITS.values())


def test_no_test_is_named_for_a_limit_that_is_none() -> None:
    assert set(EXCEEDED) <= set(names())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_every_limit_names_its_unit_and_is_positive(name: str) -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=rf"Limits\.{name} must be positive, got {wrong}"):
            Limits(**{name: wrong})  # type: ignore[arg-type]
    text = Path(limits.__file__).read_text()
    assert re.search(rf"^    {name}: (int|float) = .*", text, re.MULTILINE)
    # One text may speak of two, the first and the most; it follows the second.
    assert re.search(rf'^    {name}: .*\n(    [a-z_]+: .*\n)?    """', text, re.MULTILINE) or name in KEEPALIVE, name


KEEPALIVE = {name for name in EXCEEDED if "keepalive" in name or "ping_timeout" in name}
"""Told by the comment above them."""


THREAT_MODEL = {
    "the first frame, and the handshake": ("handshake_seconds", 5.0),
    "drain": ("drain_seconds", 30.0),
    "a traceback": ("traceback_bytes", 64 * 1024),
    "a message": ("message_bytes", 2 * 1024**2),
    "a payload": ("payload_bytes", 1024**3),
    "frames of one message": ("MOST_FRAMES", 16384),
    "tasks in flight": ("window_tasks", 1024),
    "a discovery record, and the metadata in it": ("record_bytes", 2 * 1024),
    "the table of a namespace": ("local_workers", 1024),
}
"""What the threat model bounds, by which limit, and its default."""


@pytest.mark.parametrize("what", THREAT_MODEL)
def test_a_default_of_the_threat_model_is_what_it_says(what: str) -> None:
    name, value = THREAT_MODEL[what]
    assert {**vars(limits), **dataclasses.asdict(DEFAULT_LIMITS), **dataclasses.asdict(Limits())}[name] == value


SAID = [
    ("SECURITY.md", "for each connection and for five seconds", DEFAULT_LIMITS.handshake_seconds, 5),
    ("docs/security.md", "every five seconds for workers", DEFAULT_LIMITS.credentials_seconds, 5),
    ("docs/security.md", "files over 1 MiB", limits.MOST_CREDENTIAL_BYTES, 1024**2),
]


@pytest.mark.parametrize(("page", "words", "limit", "value"), SAID)
def test_a_default_that_a_page_on_security_names_is_what_it_says(
    page: str, words: str, limit: float, value: float
) -> None:
    text = " ".join((TESTS.parent / page).read_text().split())
    assert words in text, f"{page} says it no more: say so here too"
    assert limit == value


# ---- limits that nothing else exceeds ------------------------------------------------------------------


async def test_nobody_who_accepts_in_time_is_a_dispatch_timeout() -> None:
    async with cluster(limits=dataclasses.replace(QUICK, dispatch_timeout_seconds=0.05)) as made:
        with pytest.raises(DispatchTimeout, match=r"within 0\.05 s"):
            await made.call(bodies.echo, 1)


async def test_a_namespace_is_looked_at_as_often_as_the_limit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    with LocalDiscovery(limits=Limits(discovery_poll_seconds=0.123)) as discovery:
        events = aiter(discovery.subscriber)
        first = asyncio.ensure_future(anext(events))
        monkeypatch.setattr("wool.discovery.local.asyncio.sleep", noted)
        while len(slept) < 5:
            await sleep(0)
        first.cancel()
        await asyncio.wait([first])
    assert set(slept) == {0.123}


def test_more_lines_than_the_log_holds_are_dropped_and_counted() -> None:
    most = Limits(log_lines=100).log_lines
    reader, writer = os.pipe()
    lines = LineWriter(writer, most=most, dropped=lambda count: b"dropped %d" % count)
    try:
        for _ in range(3000):
            lines.put(b"x" * 1000)  # a pipe takes some dozens of these
        assert lines._lines.qsize() <= most
        assert lines._dropped > 2000
    finally:
        os.close(reader)
        lines.close(5)
        os.close(writer)


class Timer:
    def cancel(self) -> None: ...


class Loop:
    """Takes note of when it is asked to call."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def call_later(self, delay: float, *_: object) -> Timer:
        self.delays.append(delay)
        return Timer()

    def is_closed(self) -> bool:
        return False


def test_a_worker_is_looked_for_soon_and_then_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Limits(exit_poll_first_seconds=0.01, exit_poll_most_seconds=0.05)
    looked: Any = object.__new__(WorkerProcess)
    looked._loop, looked._poll, looked._exit_reason = Loop(), Timer(), "not under test"
    looked._spec = type("Spec", (), {"limits": small})
    looked._child = type("Child", (), {"process": type("Process", (), {"pid": 1})})
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (0, 0))  # it lives
    looked._expect_end()
    for _ in range(5):
        looked._look(looked._loop.delays[-1])
    assert looked._loop.delays == [0.01, 0.02, 0.04, 0.05, 0.05, 0.05]


async def test_goodbyes_that_cannot_be_said_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    mdns = pytest.importorskip("wool.discovery.mdns", reason="needs the extra wool[lan]")
    closed = asyncio.Event()

    class Hanging:
        async def async_unregister_all_services(self) -> None:
            await asyncio.sleep(3600)

        async def async_close(self) -> None:
            closed.set()

    multicast = mdns.Multicast(Hanging(), [], Limits(lan_open_seconds=0.05))
    await asyncio.wait_for(multicast.close(), 5)
    assert closed.is_set()
    assert "goodbyes could not be said in 0.05 s (lan_open_seconds)" in caplog.text


def test_more_addresses_of_one_worker_than_a_host_has_are_not_kept() -> None:
    name = "a._wool._tcp.local."
    heard = Sightings([], DEFAULT_LIMITS, 0.0)
    heard.heard(
        [
            Record(kind="PTR", name="_wool._tcp.local.", seconds=30, target=name),
            Record(kind="SRV", name=name, seconds=30, target="a.local.", port=7000),
            *(Record(kind="A", name="a.local.", seconds=30, target=f"10.0.0.{number}") for number in range(200)),
        ],
        0.0,
    )
    assert len(heard._instances[name].addresses) == limits.MOST_ADDRESSES
