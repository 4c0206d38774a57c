# The bucket on a store that speaks S3 (SeaweedFS, MinIO, Ceph). Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.80, < 7.0"
    }
  }
}

provider "aws" {
  region                      = "us-east-1"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
  skip_region_validation      = true

  endpoints {
    s3 = var.endpoint
  }
}

module "corpus" {
  source       = "../../modules/corpus"
  bucket       = var.bucket
  aws_features = false
}

variable "endpoint" {
  description = "URL of the store."
  type        = string

  validation {
    condition     = can(regex("^https?://", var.endpoint))
    error_message = "endpoint: an http:// or https:// URL."
  }
}

variable "bucket" {
  description = "Name of the bucket."
  type        = string
}

output "bucket" {
  description = "Name of the bucket."
  value       = module.corpus.bucket
}
