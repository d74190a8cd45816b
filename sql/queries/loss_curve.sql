-- about: how a training went
-- reads: steps
-- returns: target, step, lr, loss, loss_clm, loss_fusion, kl, grad_norm, valid_loss (nats per token)
-- param: target = '' — only this training; all if empty
-- param: every = 1 — only each n-th step (those with a validation loss always)
SELECT target, step, lr, loss, loss_clm, loss_fusion, kl, grad_norm, valid_loss
FROM steps
WHERE ($target = '' OR target = $target)
    AND (CAST(step AS BIGINT) % $every = 0 OR valid_loss IS NOT NULL)
ORDER BY target, step;
