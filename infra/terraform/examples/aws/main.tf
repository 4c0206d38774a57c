# A bucket for corpora and the role of the runs, on AWS.
#   cp terraform.tfvars.example terraform.tfvars, edit it, then: terraform init && terraform apply

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
  region = var.region
}

module "corpus" {
  source = "../../modules/corpus"
  bucket = var.corpus.bucket
  tags   = local.tags
}

module "access" {
  source  = "../../modules/access"
  sources = var.sources
  corpus  = { bucket = module.corpus.bucket, prefix = var.corpus.prefix }
  oidc    = { provider_arn = var.oidc_provider_arn }
  tags    = local.tags
}

locals {
  tags = { app = "palimpsest", managed-by = "terraform" }
}
