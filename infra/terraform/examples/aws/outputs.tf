output "run_role_arn" {
  description = "Goes into the annotation of the service account palimpsest-run."
  value       = module.access.run_role_arn
}

output "run_policy_json" {
  description = "What a run may do."
  value       = module.access.run_policy_json
}

output "corpus_bucket" {
  description = "Name of the bucket."
  value       = module.corpus.bucket
}
