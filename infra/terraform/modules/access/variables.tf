variable "name" {
  description = "Name of the role."
  type        = string
  default     = "palimpsest-run"
}

variable "partition" {
  description = "AWS partition: aws, aws-cn or aws-us-gov."
  type        = string
  default     = "aws"

  validation {
    condition     = contains(["aws", "aws-cn", "aws-us-gov"], var.partition)
    error_message = "partition: choose aws, aws-cn or aws-us-gov."
  }
}

variable "sources" {
  description = "Where the texts lie: buckets and prefixes that a run may list and read."
  type        = list(object({ bucket = string, prefix = string }))

  validation {
    condition     = length(var.sources) > 0 && alltrue([for source in var.sources : endswith(source.prefix, "/") && !startswith(source.prefix, "/")])
    error_message = "sources: at least one, and each prefix ends with / and does not begin with it, so that texts/ does not give texts-secret/ away."
  }
}

variable "corpus" {
  description = "Where corpora are written: a bucket and a prefix."
  type        = object({ bucket = string, prefix = string })

  validation {
    condition     = endswith(var.corpus.prefix, "/") && !startswith(var.corpus.prefix, "/")
    error_message = "corpus.prefix ends with / and does not begin with it, for example corpora/."
  }
}

variable "kms_key_arn" {
  description = "KMS key of the corpus bucket, or null."
  type        = string
  default     = null
}

variable "oidc" {
  description = "The cluster's OIDC provider, and the service account that may take the role."
  type = object({
    provider_arn    = string
    namespace       = optional(string, "palimpsest")
    service_account = optional(string, "palimpsest-run")
  })

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:oidc-provider/.+", var.oidc.provider_arn))
    error_message = "oidc.provider_arn: the ARN of an IAM OIDC provider, arn:aws:iam::ACCOUNT:oidc-provider/ISSUER."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
