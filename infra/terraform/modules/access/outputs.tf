output "run_role_arn" {
  description = "Goes into the annotation of the service account palimpsest-run (infra/kuberay/access.yaml)."
  value       = aws_iam_role.run.arn
}

output "run_policy_json" {
  description = "The policy, for a user of an S3-compatible store or for review."
  value       = data.aws_iam_policy_document.run.json
}
