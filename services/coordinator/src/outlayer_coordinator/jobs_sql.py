# SPDX-License-Identifier: MIT
"""The statements of ``jobs``: each is one transaction that checks the state it starts from."""

# ruff: noqa: S608 - constant texts put together, no value is ever spliced in

from __future__ import annotations

CLAIM = """
WITH picked AS (
    SELECT job_id FROM jobs WHERE state = 'queued' ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE jobs j
    SET state = 'claimed', attempt = attempt + 1, worker_id = $2, token_hash = $3, worker_public_key = $4,
        session_id = $5, claimed_at = now(), lease_until = now() + $6::float8 * interval '1 second'
    FROM picked WHERE j.job_id = picked.job_id
    RETURNING j.*
)
SELECT j.job_id, j.attempt, j.kind, j.state, j.success, j.error_category, j.token_hash, j.worker_public_key,
       j.max_instructions, j.max_memory_mb, j.max_execution_seconds,
       j.contract_id, j.request_id, j.data_id, j.block_height,
       c.call_id, c.project_id, c.project_uuid, c.version_key, c.input, c.owner, c.nonce, c.compute_limit,
       c.attached_deposit, c.secrets_ref
FROM claimed j LEFT JOIN https_calls c ON c.call_id = j.call_id ORDER BY j.seq
"""

RENEW = """
UPDATE jobs SET lease_until = now() + $4::float8 * interval '1 second'
WHERE job_id = ANY ($1::uuid[]) AND state = 'claimed' AND token_hash = $2 AND worker_public_key = $3
RETURNING job_id
"""

FACTS = """
SELECT j.job_id, j.kind, j.state, j.success, j.error_category, j.attempt, j.token_hash, j.worker_public_key,
       j.max_instructions, j.max_memory_mb, j.max_execution_seconds, j.contract_id, j.request_id, j.block_height,
       c.call_id, c.owner, c.nonce, c.project_id, c.project_uuid, c.version_key, c.secrets_ref, c.input,
       c.compute_limit, c.attached_deposit
FROM jobs j LEFT JOIN https_calls c ON c.call_id = j.call_id WHERE j.job_id = ANY ($1::uuid[])
"""

# What follows a job's end, whoever ends it: `done` names the jobs that this statement took out of a state in which
# they may end, `item` what is to be said of them. Fields that a completion does not carry stay as they are (R25).
SETTLE = """
, call AS (
    UPDATE https_calls c
    SET status = CASE WHEN i.success THEN 'completed' ELSE 'failed' END, output = i.output, error = i.error,
        error_category = i.error_category, instructions = i.instructions, time_ms = i.time_ms,
        compute_cost = i.compute_cost, refund = i.refund, charged = i.charged, attested = i.attested,
        completed_at = now()
    FROM done d JOIN item i USING (job_id)
    WHERE c.call_id = d.call_id AND c.status = 'pending'
    RETURNING c.call_id, c.owner, c.nonce, c.project_id, c.reserved, c.attached_deposit, c.refund, i.charged, i.credit
), balance AS (
    UPDATE payment_keys k
    SET reserved = k.reserved - s.reserved, spent = k.spent + s.charged, open_calls = k.open_calls - s.calls
    FROM (SELECT owner, nonce, sum(reserved)::bigint AS reserved, sum(charged)::bigint AS charged,
                 count(*)::integer AS calls FROM call GROUP BY owner, nonce) s
    WHERE k.owner = s.owner AND k.nonce = s.nonce
), earned AS (
    INSERT INTO project_owner_earnings AS e (project_owner, balance, total_earned)
    SELECT split_part(project_id, '/', 1) AS project_owner, sum(credit), sum(credit)
    FROM call WHERE credit > 0 GROUP BY 1 ORDER BY 1
    ON CONFLICT (project_owner) DO UPDATE
    SET balance = e.balance + excluded.balance, total_earned = e.total_earned + excluded.total_earned,
        updated_at = now()
), history AS (
    INSERT INTO earnings_history (project_owner, project_id, attached_usd, refund_usd, amount, source, call_id)
    SELECT split_part(project_id, '/', 1), project_id, attached_deposit, refund, credit, 'https', call_id
    FROM call WHERE credit > 0
)
"""

ITEM = """
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::boolean[], $4::bytea[], $5::text[], $6::text[], $7::bigint[],
                         $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::boolean[])
        AS t(job_id, attempt, success, output, error, error_category, instructions, time_ms, compute_cost, refund,
             charged, credit, attested)
)
"""

COMPLETE = (
    ITEM
    + """
, told AS (
    SELECT * FROM unnest($1::uuid[], $16::bigint[], $17::text[]) AS t(job_id, refund_usd, resolve_tx_hash)
), done AS (
    UPDATE jobs j
    SET state = CASE WHEN i.success THEN 'completed' ELSE 'failed' END, success = i.success, finished_at = now(),
        lease_until = NULL, error = coalesce(i.error, j.error),
        error_category = coalesce(i.error_category, j.error_category),
        output = CASE WHEN j.kind = 'near' THEN coalesce(i.output, j.output) ELSE j.output END,
        instructions = coalesce(i.instructions, j.instructions), time_ms = coalesce(i.time_ms, j.time_ms),
        refund_usd = coalesce(w.refund_usd, j.refund_usd),
        resolve_tx_hash = coalesce(w.resolve_tx_hash, j.resolve_tx_hash)
    FROM item i JOIN told w USING (job_id)
    WHERE j.job_id = i.job_id AND j.state = 'claimed' AND j.attempt = i.attempt
      AND j.token_hash = $14 AND j.worker_public_key = $15
    RETURNING j.job_id, j.call_id, j.kind, j.worker_id, j.success
)
"""
    + SETTLE
    + """
, worker AS (
    UPDATE worker_status w
    SET jobs_completed = w.jobs_completed + s.completed, jobs_failed = w.jobs_failed + s.failed
    FROM (SELECT worker_id, count(*) FILTER (WHERE success) AS completed, count(*) FILTER (WHERE NOT success) AS failed
          FROM done GROUP BY worker_id) s
    WHERE w.worker_id = s.worker_id
), batch AS (
    INSERT INTO attestation_batches (digest, tree_size, root, quote)
    SELECT $18::bytea, $19::integer, $20::bytea, $21::bytea
    WHERE $18::bytea IS NOT NULL AND EXISTS (SELECT FROM done JOIN item i USING (job_id) WHERE i.attested)
    ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest
    RETURNING batch_id
), archived AS (
    INSERT INTO task_attestations (job_id, batch_id, record, leaf_hash, leaf_index, inclusion_proof, call_id,
                                   contract_id, request_id, transaction_hash)
    SELECT r.job_id, b.batch_id, r.record, r.leaf_hash, r.leaf_index, r.proof, d.call_id, r.contract_id,
           r.request_id, r.transaction_hash
    FROM unnest($1::uuid[], $22::text[], $23::bytea[], $24::integer[], $25::bytea[], $26::text[], $27::bigint[],
                $28::text[])
        AS r(job_id, record, leaf_hash, leaf_index, proof, contract_id, request_id, transaction_hash)
    JOIN done d USING (job_id) CROSS JOIN batch b
    WHERE r.record IS NOT NULL
)
SELECT job_id, call_id, kind FROM done
"""
)

FAIL = (
    ITEM
    + """
, done AS (
    UPDATE jobs j
    SET state = 'failed', success = false, finished_at = now(), lease_until = NULL, error = i.error,
        error_category = i.error_category
    FROM item i
    WHERE j.job_id = i.job_id AND j.attempt = i.attempt
      AND ((j.state = 'claimed' AND j.lease_until < now()) OR j.state = 'queued')
    RETURNING j.job_id, j.call_id, j.kind
)
"""
    + SETTLE
    + "SELECT job_id, call_id, kind FROM done"
)

REQUEUE = """
WITH expired AS (
    SELECT job_id FROM jobs WHERE state = 'claimed' AND lease_until < now() AND attempt < $1
    LIMIT 500 FOR UPDATE SKIP LOCKED
)
UPDATE jobs j SET state = 'queued', lease_until = NULL
FROM expired WHERE j.job_id = expired.job_id
RETURNING j.job_id, j.worker_id, j.attempt, j.kind
"""

EXHAUSTED = """
SELECT job_id, attempt FROM jobs
WHERE state = 'claimed' AND lease_until < now() AND attempt >= $1 LIMIT 500
"""

# R39: only calls that nobody works on; one that is claimed is its lease's business.
STUCK = """
SELECT job_id, attempt FROM jobs
WHERE state = 'queued' AND kind = 'https' AND created_at < now() - $1::float8 * interval '1 second' LIMIT 500
"""
