# The bucket of the corpora. Shards are immutable and snapshots are created once, so versions are not needed for reading; they
# are what is left after a wrong delete, for `noncurrent_days`.

resource "aws_s3_bucket" "corpus" {
  bucket        = var.bucket
  force_destroy = false
  tags          = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "corpus" {
  bucket = aws_s3_bucket.corpus.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "corpus" {
  depends_on = [aws_s3_bucket_versioning.corpus]
  bucket     = aws_s3_bucket.corpus.id

  rule {
    id     = "incomplete-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.incomplete_upload_days
    }
  }

  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "corpus" {
  count  = var.aws_features ? 1 : 0
  bucket = aws_s3_bucket.corpus.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "corpus" {
  count                   = var.aws_features ? 1 : 0
  bucket                  = aws_s3_bucket.corpus.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "corpus" {
  count  = var.aws_features ? 1 : 0
  bucket = aws_s3_bucket.corpus.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# What the store promises, enforced by the bucket too: snapshots and commit records are created, never replaced. A program that
# forgets If-None-Match is refused. s3:ObjectCreationOperation is false for the parts of a multipart upload, which carry no condition.
data "aws_iam_policy_document" "corpus" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [local.arn, "${local.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  statement {
    sid       = "CreateOnce"
    effect    = "Deny"
    actions   = ["s3:PutObject"]
    resources = ["${local.arn}/*/_snapshots/*", "${local.arn}/*/_units/*", "${local.arn}/*/corpus.json"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Null"
      variable = "s3:if-none-match"
      values   = ["true"]
    }

    condition {
      test     = "Bool"
      variable = "s3:ObjectCreationOperation"
      values   = ["true"]
    }
  }
}

resource "aws_s3_bucket_policy" "corpus" {
  count      = var.aws_features ? 1 : 0
  depends_on = [aws_s3_bucket_public_access_block.corpus]
  bucket     = aws_s3_bucket.corpus.id
  policy     = data.aws_iam_policy_document.corpus.json
}

locals {
  arn = "arn:${var.partition}:s3:::${var.bucket}"
}
