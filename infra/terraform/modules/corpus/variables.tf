variable "bucket" {
  description = "Name of the bucket for corpora."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: 3 to 63 lower-case letters, digits and hyphens, no dots (TLS certificates do not cover them)."
  }
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

variable "kms_key_arn" {
  description = "KMS key for the objects; null takes S3's own keys (SSE-S3)."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn: the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID."
  }
}

variable "incomplete_upload_days" {
  description = "Days after which an upload that was begun and never ended is removed."
  type        = number
  default     = 7

  validation {
    condition     = var.incomplete_upload_days >= 1 && var.incomplete_upload_days <= 365
    error_message = "incomplete_upload_days: 1 to 365. No run takes longer than that over one upload."
  }
}

variable "noncurrent_days" {
  description = "Days for which a deleted or replaced object can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days: at least 1."
  }
}

variable "aws_features" {
  description = "False for an S3-compatible store without encryption settings, public access block, ownership controls and bucket policies."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}
