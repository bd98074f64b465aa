-- grain: one judgement of one conversation
-- key: conversation_id, name, span_id, time_ns
-- meaning: how a conversation was judged (gen_ai.evaluation.result and its kin); the last word counts when
-- the same judgement arrives twice.
WITH ranked AS (
    SELECT
        evaluations.*,
        row_number() OVER (
            PARTITION BY evaluations.conversation_id, evaluations.name, evaluations.span_id, evaluations.time_ns
            ORDER BY evaluations.score DESC, evaluations.label, evaluations.explanation, evaluations.trace_id
        ) AS place
    FROM evaluations
    WHERE evaluations.conversation_id IS NOT NULL
)

SELECT conversation_id, name, score, label, explanation, time_ns, trace_id, span_id
FROM ranked
WHERE place = 1
ORDER BY conversation_id, time_ns, name, span_id
