-- grain: one tool call of one conversation, whether it was answered or not
-- key: conversation_id, call_index
-- meaning: the call, the span that executed it and the message that answered it, linked; repairs says how
-- where ids did not do it. content is null where production shows no answer.
SELECT
    calls.conversation_id,
    calls.call_index,
    calls.call_id,
    calls.tool,
    calls.arguments,
    calls.call_position,
    calls.result_position,
    answers.content,
    calls.is_error,
    calls.error_class,
    answers.latency_ms,
    calls.started_at_ns,
    calls.execution_trace_id,
    calls.execution_span_id,
    calls.repairs
FROM calls
LEFT JOIN messages AS answers
    ON calls.conversation_id = answers.conversation_id AND calls.result_position = answers.position
ORDER BY calls.conversation_id, calls.call_index
