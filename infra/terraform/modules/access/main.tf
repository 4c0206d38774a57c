# What a run may do, and not more: list the source prefixes and read them; list, read, write and delete below its corpus prefix.
#
# Conditional writes need no permission of their own: If-None-Match: * is s3:PutObject (If-Match would be GetObject too). But a look at
# a key that is absent answers 404 only to those who may list the bucket, and 403 to others. Such a request names no prefix, hence
# IfExists: a source object that vanished between listing and reading is then missing, not forbidden. DeleteObject is for gc and for
# the probe at the start of a run.

data "aws_iam_policy_document" "run" {
  dynamic "statement" {
    for_each = var.sources

    content {
      sid       = "ListSource${statement.key}"
      actions   = ["s3:ListBucket"]
      resources = ["arn:${var.partition}:s3:::${statement.value.bucket}"]

      condition {
        test     = "StringLikeIfExists"
        variable = "s3:prefix"
        values   = [statement.value.prefix, "${statement.value.prefix}*"]
      }
    }
  }

  statement {
    sid       = "ReadSources"
    actions   = ["s3:GetObject"]
    resources = [for source in var.sources : "arn:${var.partition}:s3:::${source.bucket}/${source.prefix}*"]
  }

  statement {
    sid       = "ListCorpus"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket]

    condition {
      test     = "StringLikeIfExists"
      variable = "s3:prefix"
      values   = [var.corpus.prefix, "${var.corpus.prefix}*"]
    }
  }

  # Unfinished uploads cannot be told apart by prefix; the action shows names, no contents.
  statement {
    sid       = "ListUnfinishedUploads"
    actions   = ["s3:ListBucketMultipartUploads"]
    resources = [local.bucket]
  }

  statement {
    sid       = "WriteCorpus"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${local.bucket}/${var.corpus.prefix}*"]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "UseKey"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

# Who may take the role: the one service account of the one namespace, through the cluster's OIDC provider (IRSA).
data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc.provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${var.oidc.namespace}:${var.oidc.service_account}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "run" {
  name                 = var.name
  description          = "Runs of Palimpsest: reads its sources, writes its corpora"
  assume_role_policy   = data.aws_iam_policy_document.trust.json
  max_session_duration = 43200
  tags                 = var.tags
}

resource "aws_iam_role_policy" "run" {
  name   = "corpus"
  role   = aws_iam_role.run.id
  policy = data.aws_iam_policy_document.run.json
}

locals {
  bucket = "arn:${var.partition}:s3:::${var.corpus.bucket}"
  issuer = replace(var.oidc.provider_arn, "/^.*:oidc-provider\\//", "")
}
