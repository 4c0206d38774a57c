variable "region" {
  description = "AWS region of the bucket."
  type        = string
  default     = "eu-central-1"
}

variable "sources" {
  description = "Where the texts lie."
  type        = list(object({ bucket = string, prefix = string }))
}

variable "corpus" {
  description = "Where corpora are written."
  type        = object({ bucket = string, prefix = string })
}

variable "oidc_provider_arn" {
  description = "The OIDC provider of the Kubernetes cluster."
  type        = string
}
